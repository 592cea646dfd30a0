//! What is filled in where a submission leaves it out.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Values for members that are absent; they are filled in once, before the event is stored, so that a retry repeats the
/// same bytes. The default is to fill in nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Whether a notification without an `impressionId` gets one (`defaults.impression_id`).
    pub impression_id: bool,
    /// Whether `context.channel` becomes `web` (`defaults.channel`).
    pub channel: bool,
    /// This host's time zone, for `context.timeOffsetInMinutes`; `None` leaves that out (`defaults.time_offset`).
    pub time_zone: Option<TimeZone>,
    /// Whether `experienceCloud.analytics.logging` becomes `server_side` (`defaults.analytics_logging`).
    pub analytics_logging: bool,
    /// The property token of submissions that bring none (`target.property_token`).
    pub property_token: Option<String>,
    /// The environment of submissions that bring none (`target.environment_id`).
    pub environment_id: Option<i64>,
}

impl Defaults {
    /// `context.timeOffsetInMinutes` at a moment, in milliseconds since the epoch: summer time changes it.
    #[must_use]
    pub fn offset_minutes(&self, now_unix_ms: u64) -> Option<i32> {
        let zone = self.time_zone.as_ref()?;
        let now = Timestamp::from_millisecond(i64::try_from(now_unix_ms).ok()?).ok()?;
        Some(zone.to_offset(now).seconds() / 60)
    }
}
