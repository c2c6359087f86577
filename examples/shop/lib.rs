//! A small shop of seven services, each with a store of its own, behind one gateway.
//!
//! | module | service | talks to |
//! |---|---|---|
//! | [`user`] | accounts, login | |
//! | [`product`] | catalogue, stock, reservations | |
//! | [`cart`] | carts that expire | |
//! | [`order`] | places orders as a saga | user, product, payment; publishes `order.created` |
//! | [`payment`] | captures and refunds through a bank, by gRPC | |
//! | [`notification`] | mails what was ordered | consumes `order.created` |
//! | [`inventory`] | counts what was sold | consumes `order.created` |
//!
//! The gateway has a page for browsers at `/`, on which one can register, fill a cart, order, and see what becomes of the order.
//!
//! They find each other through a registry of one of four kinds, a [`Place`], and tell each other what happened through a broker on one of three
//! engines, a [`Carrier`]. Prices and feature flags are [`settings`] in a key-value store, followed over HTTP. With a folder
//! ([`Ground::data_dir`]) or a database ([`Ground::database`]) everything that an order depends on outlives the process, however it ends.

pub mod api;
mod carrier;
pub mod cart;
pub mod chaos;
mod choreography;
pub mod client;
pub mod desk;
pub mod event;
mod folder;
pub mod front;
pub mod history;
pub mod host;
pub mod inventory;
mod ledger;
mod live;
pub mod load;
mod mail;
pub mod notification;
pub mod order;
mod page;
pub mod payment;
mod place;
mod place_order;
mod plan;
mod processes;
pub mod product;
mod quotas;
mod release;
mod rpc;
pub mod service;
mod services;
pub mod settings;
mod shop;
mod tell;
mod till;
pub mod token;
pub mod user;

pub use carrier::Carrier;
pub use choreography::Flow;
pub use ledger::NotKept;
pub use place::Place;
pub use processes::Hosting;
pub use quotas::Quotas;
pub use release::{Fault, NEXT, Order as ReleaseOrder, Releases, STABLE, Share};
pub use shop::{Ground, Shop, Times};
pub use tell::Answered;
