use std::time::{Duration, Instant};

use super::*;

#[tokio::test]
async fn each_fault_strikes_as_it_says() {
    for (faults, status, takings) in [
        (Faults { error_500: 1_000, ..Faults::default() }, Some(500), 0),
        (Faults { busy_503: 1_000, ..Faults::default() }, Some(503), 0),
        (Faults { refuse_all: Some(401), ..Faults::default() }, Some(401), 0),
        (Faults { refuse_all: Some(7), ..Faults::default() }, Some(500), 0),
        (Faults { busy_session: Some("s1".to_owned()), ..Faults::default() }, Some(420), 0),
        (Faults { busy_session: Some("s2".to_owned()), ..Faults::default() }, Some(200), 1),
        (Faults { reset_before: 1_000, ..Faults::default() }, None, 0),
        (Faults { reset_after: 1_000, ..Faults::default() }, None, 1),
        (Faults { down: true, ..Faults::default() }, None, 0),
        (Faults { list_none: true, ..Faults::default() }, Some(200), 0),
        (Faults { omit: 1_000, ..Faults::default() }, Some(200), 0),
    ] {
        let sandbox = with(faults.clone());
        let answer = post(&sandbox, &request(&["1"])).await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), status, "{faults:?}");
        assert_eq!(sandbox.totals().takings, takings, "{faults:?}");
        assert_eq!(sandbox.totals().connections, 1, "{faults:?}");
        if takings == 0 && status == Some(200) {
            assert!(answer.expect("an answer").listed().is_empty(), "{faults:?}");
        }
        sandbox.faults(Faults::default());
        assert_eq!(post(&sandbox, &request(&["2"])).await.map(|answer| answer.status), Some(200));
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn a_busy_answer_says_how_long_to_wait() {
    let sandbox = with(Faults { busy_503: 1_000, retry_after_s: Some(17), ..Faults::default() });
    assert!(answer(&sandbox, &request(&["1"])).await.head.contains("retry-after: 17"));
    sandbox.stop().await;
}

#[tokio::test]
async fn tokens_choose_who_is_forbidden_and_who_fails() {
    let sandbox = with(Faults {
        forbid_token: Some("mine".to_owned()),
        fail_token: Some("bad".to_owned()),
        ..Faults::default()
    });
    for (token, status) in [("mine", 403), ("yours", 200)] {
        let body = with_member(request(&["1"]), "property", json!({ "token": token }));
        assert_eq!(answer(&sandbox, &body).await.status, status, "{token}");
    }
    for (token, status) in [("bad", 503), ("bad not", 200)] {
        let mut body = request(&["1", "2"]);
        body["notifications"][1]["tokens"] = json!(["fine", token]);
        assert_eq!(answer(&sandbox, &body).await.status, status, "{token}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn a_cut_answer_breaks_off_in_its_body() {
    let sandbox = with(Faults { cut: 1_000, ..Faults::default() });
    let answer = answer(&sandbox, &request(&["1"])).await;
    let (_, length) = answer.head.split_once("content-length: ").expect("a length");
    let length: usize = length.lines().next().and_then(|length| length.parse().ok()).expect("a number");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.len(), length / 2, "{answer:?}");
    assert_eq!(sandbox.totals().takings, 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn an_omitted_notification_is_neither_listed_nor_taken() {
    let sandbox = with(Faults { omit: 500, ..Faults::default() });
    let ids: Vec<String> = (0..100).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let listed = answer(&sandbox, &request(&ids)).await.listed();
    assert!((25..75).contains(&listed.len()), "{}", listed.len());
    assert_eq!(sandbox.ledger().records().map(|record| record.id).collect::<Vec<_>>(), listed);
    sandbox.stop().await;
}

#[tokio::test]
async fn one_cluster_may_be_down_alone() {
    let sandbox =
        with(Faults { down_clusters: Cluster::parse("35").into_iter().collect(), ..Faults::default() });
    let body = request(&["1"]).to_string();
    assert!(send(&sandbox, "POST", &format!("/edge35{PATH}"), body.as_bytes()).await.is_none());
    for prefix in ["/edge36", ""] {
        let answer = send(&sandbox, "POST", &format!("{prefix}{PATH}"), body.as_bytes()).await;
        assert_eq!(answer.map(|answer| answer.status), Some(200), "{prefix}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn latency_delays_the_answer() {
    let latency = Duration::from_millis(50);
    let sandbox = with(Faults { latency, ..Faults::default() });
    let asked = Instant::now();
    answer(&sandbox, &request(&["1"])).await;
    assert!(asked.elapsed() >= latency);
    sandbox.stop().await;
}

#[tokio::test]
async fn one_seed_gives_the_same_faults_again() {
    let mut histories = Vec::new();
    for _ in 0..2 {
        let sandbox = with(Faults { error_500: 300, reset_before: 300, omit: 300, ..Faults::default() });
        let mut history = Vec::new();
        for _ in 0..30 {
            let answer = post(&sandbox, &request(&["1"])).await;
            history.push(answer.map(|answer| (answer.status, answer.body.contains("\"id\":\"1\""))));
        }
        histories.push(history);
        sandbox.stop().await;
    }
    assert_eq!(histories[0], histories[1]);
    assert!(histories[0].contains(&None) && histories[0].iter().flatten().any(|(status, _)| *status == 500));
}

/// Writes a request without closing, and waits until the sandbox has it.
async fn hanging(sandbox: &Sandbox) -> TcpStream {
    let mut stream = connect(sandbox).await;
    let body = request(&["1"]).to_string();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.expect("written");
    while sandbox.totals().requests == 0 {
        tokio::task::yield_now().await;
    }
    stream
}

#[tokio::test]
async fn stop_ends_a_request_that_hangs() {
    let sandbox = with(Faults { hang: 1_000, ..Faults::default() });
    let mut stream = hanging(&sandbox).await;
    let address = sandbox.address();
    sandbox.stop().await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(bytes.is_empty());
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn it_runs_until_it_is_told_to_end() {
    let sandbox = start();
    let mut idle = connect(&sandbox).await;
    let until = CancellationToken::new();
    let running = tokio::spawn(sandbox.run(until.clone()));
    until.cancel();
    running.await.expect("it ends");
    let mut bytes = Vec::new();
    let _ = idle.read_to_end(&mut bytes).await;
    assert!(bytes.is_empty());
}
