use std::path::Path;

use super::{
    decode, encode,
    frame::{Announced, Frame, Head},
};

/// The beginning of a file, of a frame, or the events in one: what is read of them is written, and read, as the same.
pub fn events(data: &[u8]) {
    if let Ok((head, length, _)) = Head::read(Path::new("log"), data) {
        assert!(length <= data.len());
        let again = Head::read(Path::new("log"), &head.bytes());
        assert!(again.is_ok_and(|(again, ..)| again == head), "{head:?}");
    }
    if let Some(frame) = Announced::of_whole(7, data) {
        assert!(frame.begins + frame.length <= data.len(), "{frame:?}");
    }
    let Some(events) = decode::read(data) else { return };
    let mut written = Vec::new();
    let mut frame = Frame::new();
    for event in &events {
        encode::write(&mut written, event);
        frame.push(event);
    }
    let sealed = frame.seal(7, 9).to_vec();
    assert!(Announced::of_whole(7, &sealed).is_some_and(|frame| frame.synced == Some(9)));
    assert!(Announced::of_whole(8, &sealed).is_none(), "of another file");
    let Some(again) = decode::read(&written) else {
        unreachable!("what was written of {events:?} is not read")
    };
    let mut twice = Vec::new();
    again.iter().for_each(|event| encode::write(&mut twice, event));
    assert_eq!(twice, written, "{events:?}");
}
