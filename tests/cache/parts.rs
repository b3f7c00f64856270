//! Several parts in one answer.

use graceful::cache::CacheOutcome;

use super::support::*;

/// A body of `length` in which every place can be told.
fn text(length: usize) -> String {
    (0..length.div_ceil(4)).map(|number| format!("{number:03} ")).collect::<String>()[..length]
        .into()
}

/// The parts of a `multipart/byteranges` body: their heads and contents.
fn parts(answer: &Answer) -> Vec<(String, String)> {
    let content_type = answer.header("content-type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let body = answer.text().strip_prefix(&format!("--{boundary}\r\n")).unwrap();
    let body = body.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    body.split(&format!("\r\n--{boundary}\r\n"))
        .map(|part| part.split_once("\r\n\r\n").unwrap())
        .map(|(head, content)| (head.to_owned(), content.to_owned()))
        .collect()
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_answer() {
    // RFC 9110, section 15.3.7.2.
    let body = text(1000);
    let sent = body.clone();
    let app = App::new(layer(), move |_, _| {
        let headers = [
            ("cache-control", "max-age=60"),
            ("etag", "\"a\""),
            ("content-type", "text/plain"),
            ("content-digest", "sha-256=:x:"),
        ];
        answer(&headers, sent.clone())
    });
    app.get("/").await;
    let asked = [("range", "bytes=500-509,0-3,-4"), ("if-range", "\"a\"")];
    let answer = app.get_with("/", &asked).await;
    assert_eq!((answer.status.as_u16(), answer.outcome), (206, Some(CacheOutcome::Hit)));
    assert_eq!(answer.header("content-range"), None, "each part has its own");
    assert_eq!(answer.header("content-digest"), None, "that was of everything");
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    let head = |place| format!("Content-Type: text/plain\r\nContent-Range: bytes {place}/1000");
    let expected = vec![
        (head("500-509"), body[500..510].to_owned()),
        (head("0-3"), body[..4].to_owned()),
        (head("996-999"), body[996..].to_owned()),
    ];
    assert_eq!(parts(&answer), expected);
    // Two answers do not have the same boundary.
    let another = app.get_with("/", &asked).await;
    assert_ne!(answer.header("content-type"), another.header("content-type"));
    assert_eq!(parts(&another), expected);
    for (range, if_range, status) in [
        // One range is never a multipart, whatever it was asked for with (section 15.3.7.2).
        ("bytes=0-3,2000-", "\"a\"", 206),
        ("bytes=0-3,10-20", "\"a\"", 206),
        // Everything: another representation, as much as everything, more than a client may ask for.
        ("bytes=500-509,0-3", "\"b\"", 200),
        ("bytes=0-450,540-999", "\"a\"", 200),
        (&format!("bytes={}", vec!["0-0"; 17].join(",")), "\"a\"", 200),
        ("bytes=1000-,2000-", "\"a\"", 416),
    ] {
        let answer = app.get_with("/", &[("range", range), ("if-range", if_range)]).await;
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.header("content-range").is_some(), status != 200, "{range}");
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn what_is_encoded_is_not_cut_into_a_multipart() {
    let app = App::new(layer(), |_, _| {
        answer(&[("cache-control", "max-age=60"), ("content-encoding", "x")], text(1000))
    });
    app.get("/").await;
    assert_eq!(app.get_with("/", &[("range", "bytes=0-9,500-509")]).await.status, 200);
    assert_eq!(app.get_with("/", &[("range", "bytes=500-509")]).await.status, 206);
}
