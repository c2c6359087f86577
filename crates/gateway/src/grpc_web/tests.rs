use http::Request;
use http_body_util::{BodyExt, Full, StreamBody};

use super::*;

fn head(kind: &str, accept: Option<&str>) -> Parts {
    let mut request = Request::post("/shop.Orders/Get").header("content-type", kind);
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    request.body(()).unwrap().into_parts().0
}

async fn body_of(pieces: Vec<&[u8]>) -> Result<Vec<u8>, BoxError> {
    let frames: Vec<_> = pieces
        .into_iter()
        .map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let body = StreamBody::new(tokio_stream(frames));
    let web = GrpcWeb { sends: Form::Text, wants: Form::Text };
    let body = web.request(&mut head(Form::Text.kind(), None), RequestBody::new(body, 1_000));
    Ok(body.collect().await?.to_bytes().to_vec())
}

fn tokio_stream<T>(items: Vec<T>) -> impl futures_core::Stream<Item = T> {
    struct Items<T>(std::vec::IntoIter<T>);
    impl<T> Unpin for Items<T> {}
    impl<T> futures_core::Stream for Items<T> {
        type Item = T;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
            Poll::Ready(self.0.next())
        }
    }
    Items(items.into_iter())
}

#[test]
fn the_form_of_an_answer_is_what_the_client_accepts_and_else_what_it_sends() {
    let of = |kind, accept| GrpcWeb::of(&head(kind, accept)).map(|web| (web.sends, web.wants));
    let (text, binary) = (Form::Text, Form::Binary);
    for (kind, accept, expected) in [
        ("application/grpc-web+proto", None, Some((binary, binary))),
        ("application/grpc-web", Some("*/*"), Some((binary, binary))),
        ("application/grpc-web-text", Some("application/grpc-web-text"), Some((text, text))),
        ("application/grpc-web", Some("application/grpc-web-text, */*"), Some((binary, text))),
        ("application/grpc-web-text+proto;x=1", Some("application/grpc-web"), Some((text, binary))),
        ("application/grpc", None, None),
        ("application/grpc-website", None, None),
        ("application/grpc-web-textual", None, None),
    ] {
        assert_eq!(of(kind, accept), expected, "{kind} {accept:?}");
    }
    let mut get = head("application/grpc-web", None);
    get.method = Method::GET;
    assert_eq!(GrpcWeb::of(&get), None);
}

#[test]
fn a_request_is_one_of_grpc_with_its_codec() {
    for (kind, as_grpc) in [
        ("application/grpc-web", "application/grpc"),
        ("application/grpc-web-text", "application/grpc"),
        ("application/grpc-web+thrift", "application/grpc+thrift"),
        ("application/grpc-web-text+proto; x=1", "application/grpc+proto"),
    ] {
        let mut head = head(kind, Some("*/*"));
        head.headers.insert("content-length", 8.into());
        let web = GrpcWeb::of(&head).unwrap();
        let _ = web.request(&mut head, RequestBody::new(Full::<Bytes>::from("AAAAAAAA"), 100));
        assert_eq!(head.headers["content-type"], as_grpc);
        assert_eq!(head.headers["te"], "trailers");
        let keeps_length = head.headers.contains_key("content-length");
        assert_eq!(keeps_length, web.sends == Form::Binary, "{kind}");
    }
}

#[tokio::test]
async fn what_is_no_base64_is_a_fault_of_the_client() {
    for wrong in ["AAA", "AA==A", "AA=A", "A===", "AB!=", "AAA\n", "====", "AB=="] {
        let error = body_of(vec![wrong.as_bytes()]).await.unwrap_err();
        let fault = crate::body::ClientFault::in_error(&*error);
        assert!(matches!(fault, Some(crate::body::ClientFault::Broken(_))), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn the_bound_of_a_body_is_that_of_what_the_client_sends() {
    let web = GrpcWeb { sends: Form::Text, wants: Form::Text };
    let body = |limit| RequestBody::new(Full::<Bytes>::from("AAAAAAAA"), limit);
    let read = async |limit| {
        let body = web.request(&mut head(Form::Text.kind(), None), body(limit));
        body.collect().await.map(|body| body.to_bytes().len())
    };
    assert_eq!(read(8).await.unwrap(), 6);
    let error = read(7).await.unwrap_err();
    let fault = crate::body::ClientFault::in_error(&*error);
    assert!(matches!(fault, Some(crate::body::ClientFault::TooLarge)), "{error}");
}

/// An answer of gRPC with these frames, as a client in this form gets it.
async fn answered(
    form: Form,
    frames: Vec<Result<Frame<Bytes>, BoxError>>,
) -> Result<Vec<Bytes>, BoxError> {
    let response = Response::builder().header("content-type", "application/grpc");
    let response = response.body(StreamBody::new(tokio_stream(frames))).unwrap();
    let web = GrpcWeb { sends: form, wants: form };
    let mut body = web.answer(response).ok().unwrap().into_body();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(frame?.into_data().unwrap());
    }
    assert!(body.is_end_stream());
    Ok(pieces)
}

#[tokio::test]
async fn trailers_are_the_last_message_and_an_answer_without_is_no_good_one() {
    let message = || Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 1, 7])));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    trailers.insert("x-y", HeaderValue::from_static("z"));
    let ended = || Ok(Frame::trailers(trailers.clone()));
    let last = b"\x80\0\0\0\x16grpc-status:0\r\nx-y:z\r\n".as_slice();
    let pieces = answered(Form::Binary, vec![message(), message(), ended()]).await.unwrap();
    assert_eq!(pieces, [&[0, 0, 0, 0, 1, 7][..], &[0, 0, 0, 0, 1, 7], last]);
    let pieces = answered(Form::Text, vec![message(), ended()]).await.unwrap();
    assert_eq!(pieces[0], "AAAAAAEH");
    assert_eq!(STANDARD.decode(&pieces[1]).unwrap(), last);

    let pieces = answered(Form::Binary, vec![message()]).await.unwrap();
    assert!(pieces[1].starts_with(b"\x80") && pieces[1].ends_with(b"without a status\r\n"));
    let broken = answered(Form::Binary, vec![message(), Err("broken".into())]).await;
    assert_eq!(broken.unwrap_err().to_string(), "broken", "nor does it end as if it were whole");
}

#[test]
fn what_is_no_grpc_stays_as_it_is() {
    let web = GrpcWeb { sends: Form::Binary, wants: Form::Binary };
    for kind in ["application/grpc-web", "application/grpcx", "text/html"] {
        let response = Response::builder().header("content-type", kind).body(()).unwrap();
        let same = web.answer(response).err().unwrap();
        assert_eq!(same.headers()["content-type"], kind);
    }
}

proptest::proptest! {
    #[test]
    fn bytes_come_out_as_they_went_in_however_they_are_padded_and_cut(
        pieces in proptest::collection::vec(proptest::collection::vec(0u8.., 0..20), 0..6),
        cut in 1usize..9,
    ) {
        let letters: String = pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decoded = runtime.block_on(body_of(letters.as_bytes().chunks(cut).collect()));
        proptest::prop_assert_eq!(decoded.unwrap(), pieces.concat());
    }
}
