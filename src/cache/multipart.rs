//! Several parts of a stored response in one answer (RFC 9110, sections 14.6 and 15.3.7.2).

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::answer::whole;
use super::body::ResponseBody;
use super::policy::conditional;
use super::policy::range::Span;

/// The parts of `body` that `spans` name, in that order.
pub(crate) fn answer<B>(
    mut headers: HeaderMap,
    body: &Bytes,
    spans: &[Span],
) -> Response<ResponseBody<B>> {
    conditional::strip_for_part(&mut headers);
    let boundary = boundary();
    let chunks = chunks(&boundary, headers.get(CONTENT_TYPE), body, spans);
    let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    let content_type = HeaderValue::try_from(content_type).expect("hexadecimal digits are valid");
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    whole(StatusCode::PARTIAL_CONTENT, headers, ResponseBody::multipart(chunks, length))
}

/// 128 bits that nobody knew when the content was stored, so it cannot contain them.
fn boundary() -> String {
    let keys = RandomState::new();
    format!("{:016x}{:016x}", keys.hash_one(0), keys.hash_one(1))
}

/// The heads of the parts and, between them, slices of what is stored.
fn chunks(
    boundary: &str,
    content_type: Option<&HeaderValue>,
    body: &Bytes,
    spans: &[Span],
) -> Vec<Bytes> {
    let mut chunks = Vec::with_capacity(2 * spans.len() + 1);
    for (first, last) in spans {
        let mut head = Vec::with_capacity(160);
        if !chunks.is_empty() {
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        if let Some(content_type) = content_type {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(content_type.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        let place = format!("Content-Range: bytes {first}-{last}/{}\r\n\r\n", body.len());
        head.extend_from_slice(place.as_bytes());
        chunks.push(Bytes::from(head));
        chunks.push(body.slice(*first as usize..=*last as usize));
    }
    chunks.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_a_type_and_a_place() {
        // The example of RFC 9110, section 14.6.
        let body = Bytes::from_static(b"0123456789");
        let pdf = HeaderValue::from_static("application/pdf");
        let all = chunks("THIS_STRING_SEPARATES", Some(&pdf), &body, &[(0, 2), (7, 9)]);
        let expected = "--THIS_STRING_SEPARATES\r\n\
            Content-Type: application/pdf\r\n\
            Content-Range: bytes 0-2/10\r\n\
            \r\n\
            012\r\n\
            --THIS_STRING_SEPARATES\r\n\
            Content-Type: application/pdf\r\n\
            Content-Range: bytes 7-9/10\r\n\
            \r\n\
            789\r\n\
            --THIS_STRING_SEPARATES--\r\n";
        assert_eq!(all.concat(), expected.as_bytes());
        // Nothing of what is stored is copied.
        assert_eq!(all[3].as_ptr(), body[7..].as_ptr());
    }

    #[test]
    fn a_part_of_what_has_no_type_has_none() {
        let body = Bytes::from_static(b"0123456789");
        let all = chunks("B", None, &body, &[(1, 1)]).concat();
        assert_eq!(all, b"--B\r\nContent-Range: bytes 1-1/10\r\n\r\n1\r\n--B--\r\n");
    }

    #[test]
    fn boundaries_are_not_repeated() {
        assert_ne!(boundary(), boundary());
        assert_eq!(boundary().len(), 32);
    }
}
