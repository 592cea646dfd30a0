//! What is filled in where a submission leaves it out.

/// Values for members that are absent; they are filled in once, before the event is stored, so that a retry repeats the
/// same bytes. The default is to fill in nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Whether a notification without an `impressionId` gets one (`defaults.impression_id`).
    pub impression_id: bool,
    /// Whether `context.channel` becomes `web` (`defaults.channel`).
    pub channel: bool,
    /// This host's `context.timeOffsetInMinutes`; `None` leaves it out (`defaults.time_offset`).
    pub time_offset: Option<i32>,
    /// Whether `experienceCloud.analytics.logging` becomes `server_side` (`defaults.analytics_logging`).
    pub analytics_logging: bool,
    /// The property token of submissions that bring none (`target.property_token`).
    pub property_token: Option<String>,
    /// The environment of submissions that bring none (`target.environment_id`).
    pub environment_id: Option<i64>,
}
