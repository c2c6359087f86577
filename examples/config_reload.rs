//! Settings that change while a program runs: a new price holds within two seconds, a wrong one changes nothing and says why.
//!
//! `cargo run --example config_reload`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{fs, time::Duration};

use gusset::{
    call::BoxError,
    config::{Config, ConfigError},
};
use serde::Deserialize;
use tokio::time::sleep;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    port: u16,
    price: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { port: 8080, price: 10 }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = std::env::temp_dir().join(format!("gusset-shop-{}.toml", std::process::id()));
    fs::write(&file, "price = 11\n")?;

    // The later layer wins. In a program the second one is `.env("SHOP")`.
    let config = Config::<Settings>::new()
        .file(&file)
        .vars("SHOP", [("SHOP_PORT", "9000")])
        .check(|settings| if settings.price > 0 { Ok(()) } else { Err("a price of 0".to_owned()) });
    let mut live = config.follow().await?;
    println!("at first: {:?}", live.get());

    fs::write(&file, "price = 12\n")?;
    println!("changed:  {:?}", live.changed().await);

    for wrong in ["price = 0\n", "price = \"twelve\"\n", "prize = 13\n"] {
        let before = live.refused();
        fs::write(&file, wrong)?;
        let why = refusal_after(&live, before).await;
        let why = why.to_string().replace(&*file.to_string_lossy(), "shop.toml");
        println!("refused:  {} because: {why}", wrong.trim_end());
    }
    println!("still:    {:?}", live.get());
    Ok(fs::remove_file(&file)?)
}

async fn refusal_after(
    live: &gusset::config::Live<Settings>,
    before: Option<ConfigError>,
) -> ConfigError {
    loop {
        match live.refused() {
            Some(why) if Some(&why) != before.as_ref() => return why,
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}
