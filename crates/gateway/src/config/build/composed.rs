use std::{fs::File, io::Read, path::Path};

use super::Building;
use crate::{
    Branch, Descriptors, FanOut, GrpcMethod, Route, Upstream,
    compose::Composition,
    config::{
        Named,
        file::{BranchSection, FanOutSection, GrpcOf, GrpcSection, RouteSection},
    },
};

/// A larger file has no descriptors.
const LARGEST: u64 = 64 * 1024 * 1024;

impl Building<'_> {
    /// The routes of a section, as far as they are told apart by it: by its path, or by the annotations of a service.
    pub(super) fn bare(&mut self, section: &RouteSection) -> Vec<Route> {
        let Some(grpc) = &section.grpc else {
            return section.path.iter().map(|path| Route::new(&path.value)).collect();
        };
        match (self.grpc(grpc), &section.path) {
            (Some(Asked::Method(method)), Some(path)) => {
                vec![Route::new(&path.value).grpc(*method)]
            }
            (Some(Asked::Routes(routes)), _) => routes,
            _ => Vec::new(),
        }
    }

    pub(super) fn fan_out(&mut self, section: &FanOutSection) -> Option<FanOut> {
        // All are read, so that all errors are found.
        let read: Vec<_> = section.branches.iter().map(|branch| self.branch(branch)).collect();
        let branches: Option<Vec<_>> = read.into_iter().collect();
        let mut fan_out = branches?.into_iter().fold(FanOut::new(), FanOut::branch);
        if let Some(size) = section.max_body {
            fan_out = fan_out.max_body(size.in_memory());
        }
        Some(match &section.missing_as {
            Some(member) => fan_out.missing_as(member.as_str()),
            None => fan_out,
        })
    }

    fn branch(&mut self, section: &BranchSection) -> Option<Branch> {
        let upstream = self.upstream(&section.to)?;
        let mut branch = Branch::new(section.name.as_str(), upstream, &section.path)
            .query(section.query.iter().map(String::as_str));
        if let Some(span) = section.timeout {
            branch = branch.timeout(span.0);
        }
        if section.optional {
            branch = branch.optional();
        }
        if let Some(pointer) = &section.at {
            branch = branch.at(pointer);
        }
        Some(if section.flat { branch.flat() } else { branch })
    }

    fn grpc(&mut self, section: &GrpcSection) -> Option<Asked> {
        let descriptors = self.descriptors(section)?;
        let (place, found) = match &section.of {
            GrpcOf::Method(name) => {
                let method = descriptors.method(&name.value);
                (&name.place, method.map(|method| Asked::method(method, section)))
            }
            GrpcOf::Service(name) => {
                // Where they lead is said later, as of all routes.
                let routes = descriptors.routes(&name.value, Upstream::fixed([]));
                (&name.place, routes.map(|routes| Asked::routes(routes, section)))
            }
        };
        match found {
            Ok(Asked::Routes(routes)) if routes.is_empty() => {
                let error = "none of its methods has a google.api.http annotation; write a route with method for each";
                self.errors.push(place.error(error));
                None
            }
            Ok(asked) => Some(asked),
            Err(error) => {
                self.errors.push(place.error(error.to_string()));
                None
            }
        }
    }

    fn descriptors(&mut self, section: &GrpcSection) -> Option<Descriptors> {
        let path = &section.descriptors.value.0;
        if let Some(known) = self.descriptors.get(path) {
            return known.clone();
        }
        let read = read(path);
        let read = read.map_err(|reason| {
            let reason = format!("{}: {reason}", path.display());
            self.errors.push(section.descriptors.place.error(reason));
        });
        self.descriptors.insert(path.clone(), read.clone().ok());
        read.ok()
    }
}

/// What a section asks for.
enum Asked {
    Method(Box<GrpcMethod>),
    Routes(Vec<Route>),
}

impl Asked {
    fn method(mut method: GrpcMethod, section: &GrpcSection) -> Self {
        for Named { name, value, .. } in &section.parameters {
            method = method.parameter(name.as_str(), value.as_str());
        }
        if let Some(field) = &section.body {
            method = method.body(field.as_str());
        }
        if let Some(field) = &section.response_body {
            method = method.response_body(field.as_str());
        }
        Self::Method(Box::new(with_limits(method, section)))
    }

    fn routes(routes: Vec<Route>, section: &GrpcSection) -> Self {
        let limited = |mut route: Route| match route.composition.take() {
            Some(Composition::Grpc(method)) => route.grpc(with_limits(method, section)),
            other => {
                route.composition = other;
                route
            }
        };
        Self::Routes(routes.into_iter().map(limited).collect())
    }
}

fn with_limits(mut method: GrpcMethod, section: &GrpcSection) -> GrpcMethod {
    if section.print_defaults {
        method = method.print_defaults();
    }
    match section.max_message {
        Some(size) => method.max_message(size.in_memory()),
        None => method,
    }
}

fn read(path: &Path) -> Result<Descriptors, String> {
    let mut set = Vec::new();
    let unread = |error: std::io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(unread)?;
    file.take(LARGEST + 1).read_to_end(&mut set).map_err(unread)?;
    if set.len() as u64 > LARGEST {
        return Err("it has more than 64 MiB".into());
    }
    Descriptors::from_bytes(&set).map_err(|error| error.to_string())
}
