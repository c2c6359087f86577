//! What the tests ask an etcd beside the registry.

use gusset_engines::{Etcd, Process, again};
use serde_json::{Value, json};

pub(crate) fn ask(server: &Etcd, path: &str, question: &Value) -> Value {
    let answer = server.post(path, &question.to_string()).unwrap();
    serde_json::from_str(&answer).unwrap()
}

pub(crate) fn is_leader(server: &Etcd) -> bool {
    let status = ask(server, "/v3/maintenance/status", &json!({}));
    status["leader"] == status["header"]["member_id"]
}

/// Another process with a registry, which runs one of these tests.
pub(crate) fn process(address: &str) -> Process {
    let mut command = again("outage::as_another_process");
    command.env("GUSSET_ETCD_PROCESS", address);
    Process::started("etcd-process", command)
}
