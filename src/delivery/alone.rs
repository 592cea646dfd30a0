//! The HTTP library's client by itself, for the benchmark: what delivery's own work is held against.

use std::io;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use tokio::task::JoinSet;

/// Posts `body` to `url` for `time`, `connections` requests at a time, and reads the answers; how many came.
///
/// # Errors
/// The library's, as I/O errors: a request failed, or its answer was no 2xx.
pub async fn client_alone(url: &str, body: &str, connections: usize, time: Duration) -> io::Result<u64> {
    let client = Client::builder().no_proxy().build().map_err(io::Error::other)?;
    let began = Instant::now();
    let mut tasks: JoinSet<io::Result<u64>> = JoinSet::new();
    for _ in 0..connections {
        let (client, url, body) = (client.clone(), url.to_owned(), body.to_owned());
        tasks.spawn(async move {
            let mut answers = 0;
            while began.elapsed() < time {
                let request = client.post(&url).header(CONTENT_TYPE, "application/json").body(body.clone());
                let answer = request.send().await.and_then(Response::error_for_status);
                answer.map_err(io::Error::other)?.bytes().await.map_err(io::Error::other)?;
                answers += 1;
            }
            Ok(answers)
        });
    }
    tasks.join_all().await.into_iter().sum()
}
