use std::fmt;

use prost::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use thiserror::Error;

use super::{GrpcMethod, http_rule};
use crate::{Route, Upstream};

/// What protobuf files say: messages, services, and how they are to be asked in HTTP and JSON. Cheap to clone.
///
/// It is read from a descriptor set, which `protoc --include_imports --descriptor_set_out=shop.binpb shop.proto` writes, and `buf build -o shop.binpb`.
///
/// ```
/// # fn routes(set: &[u8]) -> Result<(), gusset_gateway::DescriptorsError> {
/// use gusset_gateway::{Descriptors, Gateway, Route, Upstream};
/// use gusset_registry::MemoryRegistry;
/// use http::Method;
///
/// let shop = Descriptors::from_bytes(set)?;
/// // Of a service with google.api.http annotations, all of them:
/// let mut gateway = Gateway::builder(MemoryRegistry::default());
/// for route in shop.routes("shop.v1.Orders", "orders")? {
///     gateway = gateway.route(route);
/// }
/// // Of any other, one by one; what the path calls {id} is the field of that name:
/// let stock = Route::new("/v1/stock/{id}").methods([Method::GET]);
/// let gateway = gateway.route(stock.to("stock").grpc(shop.method("shop.v1.Stock/Get")?));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Descriptors {
    pool: DescriptorPool,
}

impl Descriptors {
    /// Reads a `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    ///
    /// [`DescriptorsError::Malformed`] if it is none, files that it imports are not in it, or one of them is written in an edition rather than proto2 or proto3.
    pub fn from_bytes(set: &[u8]) -> Result<Self, DescriptorsError> {
        let malformed = |error: &dyn fmt::Display| DescriptorsError::Malformed(error.to_string());
        // What the library panics at: an edition, or nothing that it has heard of.
        let Files { files } = Files::decode(set).map_err(|error| malformed(&error))?;
        for File { name, syntax } in files {
            if !matches!(syntax.as_deref(), None | Some("proto2" | "proto3")) {
                let syntax = syntax.unwrap_or_default();
                let what =
                    format!("the syntax of {name} is {syntax:?}, proto2 and proto3 are read");
                return Err(malformed(&what));
            }
        }
        let pool = DescriptorPool::decode(set).map_err(|error| malformed(&error))?;
        Ok(Self { pool })
    }

    /// The method of this path, as `shop.v1.Orders/Get`.
    ///
    /// # Errors
    ///
    /// [`DescriptorsError::Unknown`] if there is none.
    pub fn method(&self, path: &str) -> Result<GrpcMethod, DescriptorsError> {
        let unknown = || DescriptorsError::Unknown(path.to_owned());
        let (service, name) = path.trim_start_matches('/').split_once('/').ok_or_else(unknown)?;
        let service = self.pool.get_service_by_name(service).ok_or_else(unknown)?;
        let method = service.methods().find(|method| method.name() == name);
        Ok(GrpcMethod::new(method.ok_or_else(unknown)?))
    }

    /// A route to `to` for each `google.api.http` annotation of a service, the additional ones too. Methods without one have none.
    ///
    /// # Errors
    ///
    /// [`DescriptorsError::Unknown`] if there is no such service, [`DescriptorsError::Annotation`] if an annotation makes no sense, or says
    /// what routes cannot: another part of a path behind `**`.
    pub fn routes(
        &self,
        service: &str,
        to: impl Into<Upstream>,
    ) -> Result<Vec<Route>, DescriptorsError> {
        let unknown = || DescriptorsError::Unknown(service.to_owned());
        let service = self.pool.get_service_by_name(service).ok_or_else(unknown)?;
        let to = to.into();
        let mut routes = Vec::new();
        for method in service.methods() {
            for rule in http_rule::of(&method).map_err(|reason| wrong(&method, reason))? {
                let route = Route::new(rule.path).methods([rule.method]).to(to.clone());
                routes.push(route.grpc(rule.grpc));
            }
        }
        Ok(routes)
    }
}

#[cfg(any(test, fuzzing))]
impl Descriptors {
    /// Names of all services.
    pub(super) fn services(&self) -> impl Iterator<Item = String> {
        self.pool.services().map(|service| service.full_name().to_owned())
    }
}

fn wrong(method: &MethodDescriptor, reason: String) -> DescriptorsError {
    DescriptorsError::Annotation { method: method.full_name().to_owned(), reason }
}

/// A descriptor set, as far as it is looked at before it is read.
#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "12")]
    syntax: Option<String>,
}

/// Options of a method, with that of the annotation.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Options {
    #[prost(message, optional, tag = "72295728")]
    pub(super) http: Option<http_rule::HttpRule>,
    /// 0 unknown, 1 without side effects, 2 idempotent.
    #[prost(int32, tag = "34")]
    pub(super) idempotency: i32,
}

impl Options {
    pub(super) fn of(method: &MethodDescriptor) -> Self {
        let options = method.options().encode_to_vec();
        // What they cannot be read as, they do not say.
        Self::decode(&*options).unwrap_or_default()
    }
}

/// Why descriptors cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DescriptorsError {
    /// What was given is no descriptor set, or not a whole one.
    #[error("no descriptor set, or one without what its files import: {0}")]
    Malformed(String),
    /// There is no service or method of this name.
    #[error(
        "{0} is not among the descriptors; a service is named shop.v1.Orders, a method shop.v1.Orders/Get"
    )]
    Unknown(String),
    /// The annotation of a method cannot become a route.
    #[error("the annotation of {method}: {reason}")]
    Annotation {
        /// The method's full name.
        method: String,
        /// What is wrong.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_edition_is_refused_and_makes_nothing_stumble() {
        for (syntax, read) in
            [(Some("editions"), false), (Some(""), false), (Some("proto3"), true), (None, true)]
        {
            let file = File { name: "shop.proto".into(), syntax: syntax.map(Into::into) };
            let read_as = Descriptors::from_bytes(&Files { files: vec![file] }.encode_to_vec());
            assert_eq!(read_as.is_ok(), read, "{syntax:?}");
        }
        let file = File { name: "shop.proto".into(), syntax: Some("editions".into()) };
        let set = Files { files: vec![file] }.encode_to_vec();
        let error = Descriptors::from_bytes(&set).unwrap_err().to_string();
        assert!(error.contains("the syntax of shop.proto is \"editions\""), "{error}");
    }
}
