//! The user service: accounts and login.

use std::sync::LazyLock;

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use gusset::call::Problem;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::{
    api::{Json, Path, Subject, new_id, not_found, problem},
    ledger::{Ledger, NotKept, place},
    token::Tokens,
};

/// What it keeps: accounts, and by their addresses the ids of these.
const ACCOUNT: &str = "account";
const ADDRESS: &str = "address";

/// An account as others see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: Uuid,
    /// Its address, unique in the shop.
    pub email: String,
    /// What to call the person.
    pub name: String,
    /// Whether it may order.
    pub active: bool,
}

/// The service with its store.
#[derive(Clone, Debug)]
pub struct Users {
    ledger: Ledger,
    tokens: Tokens,
}

#[derive(Debug, Serialize, Deserialize)]
struct Account {
    user: User,
    password: String,
}

#[derive(Deserialize)]
struct Registration {
    email: String,
    name: String,
    password: String,
}

#[derive(Deserialize)]
struct Login {
    email: String,
    password: String,
}

impl Users {
    /// Logins are answered with `tokens`.
    pub(crate) const fn new(tokens: Tokens, ledger: Ledger) -> Self {
        Self { ledger, tokens }
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/users", post(register))
            .route("/users/{id}", get(show))
            .route("/users/{id}/validate", get(validate))
            .route("/login", post(login))
            .with_state(self.clone())
    }

    /// Opens an account.
    ///
    /// # Errors
    ///
    /// 409 if the address is taken.
    async fn open(&self, email: String, name: String, password: String) -> Result<User, Problem> {
        let opened = self.ledger.change([place(ADDRESS, &email)], move |page| {
            if page.get::<Uuid>(ADDRESS, &email)?.is_some() {
                let detail = format!("{email} has an account already");
                return Err(problem(StatusCode::CONFLICT, detail));
            }
            let user = User { id: new_id(), email, name, active: true };
            page.put(ADDRESS, &user.email, &user.id);
            page.put(ACCOUNT, user.id, &Account { user: user.clone(), password });
            Ok(user)
        });
        opened.await
    }

    async fn find(&self, id: Uuid) -> Result<User, Problem> {
        let account: Option<Account> = self.ledger.get(ACCOUNT, id).await?;
        account.map(|account| account.user).ok_or_else(|| not_found("user", id))
    }

    async fn credentials(&self, email: &str) -> Result<Option<(Uuid, String)>, NotKept> {
        let Some(id) = self.ledger.get::<Uuid>(ADDRESS, email).await? else { return Ok(None) };
        let account: Option<Account> = self.ledger.get(ACCOUNT, id).await?;
        Ok(account.map(|account| (account.user.id, account.password)))
    }
}

async fn register(
    State(users): State<Users>,
    Json(form): Json<Registration>,
) -> Result<(StatusCode, axum::Json<User>), Problem> {
    let unprocessable = |detail| Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
    if !form.email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
    {
        return unprocessable(format!("email: {:?} is no address", form.email));
    }
    if form.password.chars().count() < 8 {
        return unprocessable("password: at least 8 characters".into());
    }
    let password = blocking(move || hash(&form.password)).await?;
    let user = users.open(form.email, form.name, password).await?;
    Ok((StatusCode::CREATED, axum::Json(user)))
}

/// A user sees only the own account; services of the shop, which come without a subject, see all.
async fn show(
    State(users): State<Users>,
    subject: Option<Subject>,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<User>, Problem> {
    if subject.is_some_and(|Subject(user)| user != id) {
        return Err(not_found("user", id));
    }
    users.find(id).await.map(axum::Json)
}

async fn validate(
    State(users): State<Users>,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<Value>, Problem> {
    let user = users.find(id).await?;
    Ok(axum::Json(json!({ "valid": user.active, "email": user.email })))
}

async fn login(
    State(users): State<Users>,
    Json(form): Json<Login>,
) -> Result<axum::Json<Value>, Problem> {
    let account = users.credentials(&form.email).await?;
    let user = blocking(move || {
        // An unknown address takes as long as a wrong password, so that nobody can tell them apart.
        let (user, password) =
            account.map_or((None, NOBODY.clone()), |(id, hash)| (Some(id), hash));
        let right = Argon2::default().verify_password(form.password.as_bytes(), &*password).is_ok();
        user.filter(|_| right)
            .ok_or_else(|| problem(StatusCode::UNAUTHORIZED, "wrong address or password"))
    })
    .await?;
    Ok(axum::Json(json!({ "user_id": user, "token": users.tokens.issue(user) })))
}

static NOBODY: LazyLock<String> = LazyLock::new(|| hash("nobody").unwrap_or_default());

fn hash(password: &str) -> Result<String, Problem> {
    let broken = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR);
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(broken)
}

/// Hashing takes tens of milliseconds of a core, too long for a task among others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR)))
}
