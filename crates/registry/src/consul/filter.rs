//! Consul's `filter` expressions: `Service.Meta.version == "2" and not "canary" in Service.Tags`.

use serde_json::Value;

#[derive(Debug)]
pub(super) enum Filter {
    Any(Vec<Filter>),
    All(Vec<Filter>),
    Not(Box<Filter>),
    Equals(Vec<String>, String),
    Contains(Vec<String>, String),
    Empty(Vec<String>),
}

impl Filter {
    /// Whether it is true of what is shown. What is not there equals nothing, holds nothing and is empty.
    pub(super) fn holds(&self, shown: &Value) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.holds(shown)),
            Self::All(parts) => parts.iter().all(|part| part.holds(shown)),
            Self::Not(part) => !part.holds(shown),
            Self::Equals(path, wanted) => found(shown, path).iter().any(|value| is(value, wanted)),
            Self::Contains(path, wanted) => {
                found(shown, path).iter().any(|value| contains(value, wanted))
            }
            Self::Empty(path) => found(shown, path).iter().all(|value| is_empty(value)),
        }
    }
}

/// What stands at the path; of a list, such as `Checks.Status`, whatever stands there in each of its items.
fn found<'a>(shown: &'a Value, path: &[String]) -> Vec<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return vec![shown] };
    match shown {
        Value::Array(items) => items.iter().flat_map(|item| found(item, path)).collect(),
        // A key of metadata may hold dots.
        Value::Object(object) => match object.get(first) {
            Some(value) => found(value, rest),
            None => object.get(&path.join(".")).into_iter().collect(),
        },
        _ => Vec::new(),
    }
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Number(number) => *number.to_string() == *wanted,
        Value::Bool(flag) => wanted == if *flag { "true" } else { "false" },
        _ => false,
    }
}

fn contains(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.contains(wanted),
        Value::Array(items) => items.iter().any(|item| is(item, wanted)),
        Value::Object(object) => object.contains_key(wanted),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::consul::filter_parser::parse;
    use proptest::prelude::*;
    use serde_json::json;

    fn holds(filter: &str) -> bool {
        let shown = json!({
            "Service": {"Meta": {"version": "2", "a.b": "c"}, "Tags": ["blue"], "Port": 80, "Address": ""},
            "Checks": [{"Status": "passing"}, {"Status": "warning"}],
        });
        parse(filter).unwrap().holds(&shown)
    }

    #[test]
    fn expressions_mean_what_they_mean_in_consul() {
        for (filter, expected) in [
            ("Service.Meta.version == \"2\"", true),
            ("Service.Meta.version==2", true),
            ("Service.Meta.version != `2`", false),
            ("Service.Meta.missing == \"\"", false),
            ("Service.Meta.missing != x", true),
            ("Service.Meta[\"a.b\"] == c and Service.Meta.a.b == c", true),
            ("Service.Port == 80", true),
            ("\"blue\" in Service.Tags", true),
            ("blue not in Service.Tags", false),
            ("Service.Tags contains \"blue\"", true),
            ("Service.Tags not contains red", true),
            ("version in Service.Meta", true),
            ("Service.Address is empty and Service.Tags is not empty", true),
            ("not (Service.Port == 80 or Service.Port == 81)", false),
            ("Service.Port == 1 and Service.Port == 2 or Service.Port == 80", true),
            ("Checks.Status == \"warning\"", true),
            ("Service.Meta.version == \"\\\"\"", false),
        ] {
            assert_eq!(holds(filter), expected, "{filter}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-c.\"`()=! \\[\\]notandri\\\\ü]{0,40}") {
            if let Ok(filter) = parse(&text) {
                filter.holds(&json!({"a": [{"b": "c"}]}));
            }
        }
    }
}
