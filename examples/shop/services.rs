//! Which services a shop has, and how an instance of each is made.

use std::{future::ready, io};

use axum::{Router, middleware::from_fn_with_state};
use gusset::{broker::Broker, sidecar::Sidecar};

use crate::{
    cart::Carts,
    chaos::{Chaos, hurt_payments},
    choreography::{self, Flow},
    event::OrderCreated,
    folder::Folder,
    inventory::{self, Inventory},
    ledger::Ledger,
    mail::Mail,
    notification::{self, Notifications},
    order::Orders,
    payment::Payments,
    plan::{Plan, Supplies},
    product::Products,
    till::Till,
    token::Tokens,
    user::Users,
};

/// Each with the number of its instances. Those that are called come before those that call them.
pub(crate) const SERVICES: [(&str, usize); 7] = [
    ("user-service", 1),
    ("product-service", 3),
    ("cart-service", 1),
    ("payment-service", 2),
    ("notification-service", 1),
    ("inventory-service", 1),
    ("order-service", 2),
];

/// The services with their stores.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) users: Users,
    pub(crate) products: Products,
    pub(crate) payments: Payments,
    pub(crate) orders: Orders,
    pub(crate) notifications: Notifications,
    pub(crate) inventory: Inventory,
    pub(crate) broker: Broker,
    ledger: Ledger,
}

impl Services {
    pub(crate) fn new(folder: &Folder, tokens: &Tokens, flow: Flow, broker: &Broker) -> Self {
        let ledger = &folder.ledger;
        Self {
            users: Users::new(tokens.clone(), ledger.clone()),
            products: Products::new(ledger.clone()),
            payments: Payments::new(ledger.clone()),
            orders: Orders::new(folder, flow),
            notifications: Notifications::new(ledger.clone()),
            inventory: Inventory::new(ledger.clone()),
            broker: broker.clone(),
            ledger: ledger.clone(),
        }
    }

    /// Tells the plan how they are made; payments can be broken by the switches of `chaos`.
    pub(crate) fn plan(&self, plan: &mut Plan, chaos: &Chaos) {
        let users = self.users.clone();
        plan.add("user-service", move |_| ready(users.router()));
        let listens = self.orders.listens();
        let (products, broker, ledger) =
            (self.products.clone(), self.broker.clone(), self.ledger.clone());
        plan.add("product-service", move |given: Supplies| {
            let (products, broker, ledger) = (products.clone(), broker.clone(), ledger.clone());
            async move {
                let app = products.router(given.settings().await);
                if !listens {
                    return app.into();
                }
                let sidecar = given.outbound.sidecar();
                let mail = Mail::new(&ledger, &broker, sidecar, "product");
                choreography::beside(app, choreography::products(&mail, &broker, sidecar).await)
            }
        });
        let carts = Carts::default();
        plan.add("cart-service", move |_| ready(carts.router()));
        let (payments, broker, ledger) =
            (self.payments.clone(), self.broker.clone(), self.ledger.clone());
        let (chaos, hurt) = (chaos.clone(), from_fn_with_state(chaos.clone(), hurt_payments));
        plan.add("payment-service", move |given: Supplies| {
            let (payments, broker, ledger) = (payments.clone(), broker.clone(), ledger.clone());
            let (chaos, app) = (chaos.clone(), payments.router().layer(hurt.clone()));
            async move {
                if !listens {
                    return app.into();
                }
                let sidecar = given.outbound.sidecar();
                let mail = Mail::new(&ledger, &broker, sidecar, "payment");
                // Beside those of other services, where it is seen.
                let bank = given.outbound.circuits().get(choreography::BANK.into());
                let till = Till { payments, bank, mail, chaos };
                choreography::beside(app, choreography::payments(till, &broker, sidecar).await)
            }
        });
        let notifications = self.notifications.clone();
        plan.add("notification-service", move |_| ready(notifications.router()));
        let inventory = self.inventory.clone();
        plan.add("inventory-service", move |_| ready(inventory.router()));
        let (orders, broker) = (self.orders.clone(), self.broker.clone());
        plan.add("order-service", move |given: Supplies| {
            let (orders, broker) = (orders.clone(), broker.clone());
            async move {
                let settings = given.settings().await;
                // A definition that is not well formed leaves the instance without paths, which every test and story notices.
                let made = orders.spawn_router(&given.outbound, &broker, settings).await;
                made.unwrap_or_else(|_| Router::new().into())
            }
        });
    }
}

/// From now on what comes waits for these groups, be anybody there or not.
pub(crate) async fn declare_groups(broker: &Broker, flow: Flow, keeps: bool) -> io::Result<()> {
    if flow == Flow::Choreography || keeps {
        for (group, pattern) in choreography::GROUPS {
            let declared = broker.declare(group, pattern, choreography::policy()).await;
            declared.map_err(io::Error::other)?;
        }
    }
    for (group, policy) in
        [(inventory::GROUP, inventory::policy()), (notification::GROUP, notification::policy())]
    {
        let declared = broker.declare(group, OrderCreated::SUBJECT, policy).await;
        declared.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Whose calls an instance of this service makes and answers.
pub(crate) fn sidecar_of(service: &str) -> Sidecar {
    use axum::extract::MatchedPath;
    use gusset::sidecar::Route;
    Sidecar::new(service).route_of(|extensions| {
        let path = extensions.get::<MatchedPath>()?;
        Some(Route::from(std::sync::Arc::<str>::from(path.as_str())))
    })
}
