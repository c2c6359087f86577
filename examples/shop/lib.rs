//! A small shop of seven services, each with a store of its own, behind one gateway.
//!
//! | module | service | talks to |
//! |---|---|---|
//! | [`user`] | accounts, login | |
//! | [`product`] | catalogue, stock, reservations | |
//! | [`cart`] | carts that expire | |
//! | [`order`] | places orders as a saga | user, product, payment; publishes `order.created` |
//! | [`payment`] | captures and refunds through a bank | |
//! | [`notification`] | mails what was ordered | consumes `order.created` |
//! | [`inventory`] | counts what was sold | consumes `order.created` |
//!
//! They find each other through a registry of one of four kinds, a [`Place`], and tell each other what happened through a broker on one of three
//! engines, a [`Carrier`]. Prices and feature flags are [`settings`] in a key-value store, followed over HTTP. With a folder
//! ([`Ground::data_dir`]) everything that an order depends on outlives the process, however it ends.

pub mod api;
mod carrier;
pub mod cart;
pub mod chaos;
pub mod client;
pub mod desk;
pub mod event;
mod folder;
pub mod front;
pub mod inventory;
#[cfg_attr(not(feature = "files"), allow(dead_code, reason = "without files nothing is kept"))]
mod kept;
pub mod load;
pub mod notification;
pub mod order;
pub mod payment;
mod place;
mod place_order;
mod plan;
pub mod product;
pub mod service;
pub mod settings;
mod shop;
pub mod token;
pub mod user;

pub use carrier::Carrier;
pub use place::Place;
pub use shop::{Ground, Shop, Times};
