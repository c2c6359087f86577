//! A gateway out of a file.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "../common/mod.rs"]
mod common;

mod composed;
mod reload;
mod settings;
mod shared;
mod traffic;

use std::{fs, path::PathBuf};

use gusset_gateway::{
    Gateway,
    config::{Config, Reloading, Resources},
};
use http::{Request, StatusCode};
use tower::ServiceExt;

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}"));
        fs::create_dir_all(&folder).unwrap();
        let file = Self(folder.join("gateway.toml"));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

async fn ask(reloading: &Reloading, path: &str) -> StatusCode {
    let request = Request::get(format!("http://shop{path}"));
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let answer = reloading.live().clone().oneshot(request).await.unwrap();
    answer.status()
}

/// The gateway of a text.
fn built(text: &str, resources: &Resources) -> Gateway {
    Config::parse("gateway.toml", text).unwrap().build(resources).unwrap()
}
