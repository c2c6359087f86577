//! The chapters of the book, so that the programs in them compile and run as tests of documentation.

macro_rules! chapters {
    ($($name:ident: $file:literal,)*) => {
        $(
            #[doc = include_str!(concat!("src/", $file))]
            #[derive(Debug)]
            pub struct $name;
        )*
    };
}

chapters! {
    Introduction: "introduction.md",
    FirstService: "first-service.md",
    StandardStack: "standard-stack.md",
    Template: "template.md",
    Recipes: "recipes.md",
    Interoperability: "interoperability.md",
    Discovery: "patterns/discovery.md",
    Balancing: "patterns/balancing.md",
    RateLimits: "patterns/rate-limits.md",
    Concurrency: "patterns/concurrency.md",
    CircuitBreakers: "patterns/circuit-breakers.md",
    Retries: "patterns/retries.md",
    Deadlines: "patterns/deadlines.md",
    Messages: "patterns/messages.md",
    Sagas: "patterns/sagas.md",
    Traces: "patterns/traces.md",
    AtTheGateway: "patterns/gateway.md",
    AsAProcess: "patterns/sidecar.md",
    Testing: "testing.md",
    Operating: "operating.md",
    OpenCircuit: "operating/open-circuit.md",
    StuckSaga: "operating/stuck-saga.md",
    DeadLetters: "operating/dead-letters.md",
    Upgrading: "operating/upgrading.md",
    Weight: "weight.md",
    Platforms: "platforms.md",
    Migrating: "migrating.md",
    Pitfalls: "pitfalls.md",
}
