use std::fmt;

use http::Method;

/// The methods of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Methods {
    /// All but CONNECT, which would make a tunnel, and TRACE, which shows headers that the gateway adds.
    Any,
    /// These. GET stands for HEAD as well.
    These(Vec<Method>),
}

impl Methods {
    const USUAL: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];

    pub(crate) fn these(methods: impl IntoIterator<Item = Method>) -> Self {
        let mut these: Vec<Method> = Vec::new();
        for method in methods {
            let implied = (method == Method::GET).then_some(Method::HEAD);
            for method in std::iter::once(method).chain(implied) {
                if !these.contains(&method) {
                    these.push(method);
                }
            }
        }
        Self::These(these)
    }

    pub(crate) fn contains(&self, method: &Method) -> bool {
        match self {
            Self::Any => !matches!(*method, Method::CONNECT | Method::TRACE),
            Self::These(methods) => methods.contains(method),
        }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::These(methods), _) => methods.iter().any(|method| other.contains(method)),
            (Self::Any, Self::These(methods)) => methods.iter().any(|method| self.contains(method)),
            (Self::Any, Self::Any) => true,
        }
    }

    /// Whether it takes every method that `other` takes.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::These(methods)) => methods.iter().all(|method| self.contains(method)),
            (mine, Self::Any) => *mine == Self::Any,
        }
    }

    fn listed(&self) -> &[Method] {
        match self {
            Self::Any => &Self::USUAL,
            Self::These(methods) => methods,
        }
    }
}

/// The methods that a path has: the value of `Allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed(Vec<Method>);

impl Allowed {
    pub(super) fn add(&mut self, methods: &Methods) {
        for method in methods.listed() {
            if !self.0.contains(method) {
                self.0.push(method.clone());
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, method) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{method}")?;
        }
        Ok(())
    }
}
