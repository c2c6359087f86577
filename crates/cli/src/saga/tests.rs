use super::*;

fn read(args: &[&str]) -> Result<Option<Asked>, String> {
    let args = args.iter().chain(&["--sqlite", "f"]);
    parse(&mut lexopt::Parser::from_args(args), None).map_err(|error| error.to_string())
}

fn what(args: &[&str]) -> What {
    read(args).unwrap().unwrap().what
}

#[test]
fn orders_are_read_word_by_word() {
    let saga: SagaId = "order-1".parse().unwrap();
    assert_eq!(what(&["retry", "order-1"]), What::Order(saga.clone(), Order::Retry));
    let step = "pay".into();
    let skip = Order::Skip { step };
    assert_eq!(what(&["skip", "order-1", "pay", "--note", "x"]), What::Order(saga.clone(), skip));
    let What::Order(_, Order::Supply { output, .. }) =
        what(&["supply", "order-1", "pay", r#"{"id": 7}"#])
    else {
        unreachable!("it is a supply")
    };
    assert_eq!(output.get(), r#"{"id": 7}"#);
    assert_eq!(what(&["show", "order-1", "--mermaid"]), What::Show(saga));
    let stuck = Query::in_state(State::Stuck).limit(3);
    assert_eq!(what(&["list", "--state", "stuck", "--limit", "3"]), What::List(stuck));
    assert_eq!(read(&["list", "--help"]), Ok(None));
}

#[test]
fn what_is_wrong_is_named() {
    for (args, said) in [
        (&[][..], "what about the sagas? see gusset saga --help"),
        (&["bury", "x"], "'bury' is none of its commands"),
        (&["show"], "show takes other words; see gusset saga --help"),
        (&["skip", "x"], "skip takes other words; see gusset saga --help"),
        (&["retry", "x", "y"], "retry takes other words; see gusset saga --help"),
        (
            &["show", "a b"],
            "\"a b\" is not a name: 1 to 128 visible ASCII characters, in steps without '/'",
        ),
        (&["list", "--state", "asleep"], "--state: 'asleep' is no state; see gusset saga --help"),
        (&["list", "--mermaid"], "an option does not go with list; see gusset saga --help"),
        (&["list", "--note", "x"], "an option does not go with list; see gusset saga --help"),
        (&["close", "x", "--json"], "an option does not go with close; see gusset saga --help"),
        (&["show", "x", "--limit", "3"], "an option does not go with show; see gusset saga --help"),
        (&["list", "--postgres", "x"], "--sqlite or --postgres, not both"),
    ] {
        assert_eq!(read(args).unwrap_err(), said, "{args:?}");
    }
    assert!(read(&["supply", "x", "pay", "{"]).unwrap_err().starts_with("'{' is no JSON: "));
    let nowhere = parse(&mut lexopt::Parser::from_args(["list"]), None).unwrap_err();
    assert_eq!(nowhere.to_string(), "where are the sagas? --sqlite FILE or --postgres URL");
    let environment = Some("postgres://h/d".to_owned());
    assert!(parse(&mut lexopt::Parser::from_args(["list"]), environment).is_ok());
}
