//! A saga whose third step fails: what the first two did is undone, in reverse.
//!
//! `cargo run --example saga_compensates`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use gusset::{
    call::BoxError,
    saga::{Effect, Finished, MemoryStore, Orchestrator, Saga, StepContext, StepError},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut saga = Saga::define("place-order", 1);
    let shelf = saga.step("reserve-lamp").run(reserve).undo(release);
    let receipt = saga.step("take-money").needs(&shelf).run(pay).undo(refund);
    let parcel = saga.step("send-parcel").needs((&shelf, &receipt)).run(send).no_undo();
    let place_order = saga.finish(&parcel)?;

    // In memory here; with `SqliteStore` or `PostgresStore` it survives the process.
    let sagas = Orchestrator::new(MemoryStore::new());
    for address in ["7 Main Street", "the moon"] {
        println!("a lamp to {address}:");
        match sagas.run(&place_order, address.to_owned()).await? {
            Finished::Completed(parcel) => println!("  done: {parcel}"),
            Finished::Compensated { failure, .. } => println!("  undone: {failure}"),
            other => println!("  an operator has to look at it: {other:?}"),
        }
    }
    Ok(())
}

/// An action: the input of the saga, then what it needs of other steps.
async fn reserve(_: StepContext, _: String) -> Result<u32, StepError> {
    println!("  warehouse: a lamp of shelf 7 is reserved");
    Ok(7)
}

/// An undo gets what its action returned, or is told that nobody knows whether there was an effect.
async fn release(_: StepContext, _: String, shelf: Effect<u32>) -> Result<(), StepError> {
    println!("  warehouse: released, {shelf:?}");
    Ok(())
}

/// Called at least once under one key; a bank that is given the key takes the money once.
async fn pay(cx: StepContext, _: String, shelf: u32) -> Result<String, StepError> {
    println!("  bank:      40 € for the lamp of shelf {shelf}");
    Ok(format!("receipt of {}", cx.step()))
}

async fn refund(
    _: StepContext,
    _: String,
    _shelf: u32,
    receipt: Effect<String>,
) -> Result<(), StepError> {
    println!("  bank:      given back, {receipt:?}");
    Ok(())
}

async fn send(_: StepContext, address: String, _: (u32, String)) -> Result<String, StepError> {
    if address == "the moon" {
        println!("  carrier:   no parcels to that address");
        return Err(StepError::rejected("no parcels to that address"));
    }
    println!("  carrier:   on its way");
    Ok(format!("a parcel to {address}"))
}
