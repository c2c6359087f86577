//! What of a request is which field.

use http::Method;

use super::{
    super::{
        GrpcMethod,
        fields::{find, is_sayable},
        grpc_method::{BodyField, Piece},
    },
    Bound, Placed, Taken,
};
use crate::{
    Route,
    routes::{Methods, Pattern},
};
/// What the body of a request on this route is.
pub(super) fn taken(route: &Route, of: &GrpcMethod) -> Result<Taken, String> {
    let has_body = |method: &Method| matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    let Methods::These(methods) = &route.methods else {
        return Err("a method of gRPC is asked for by one of HTTP: methods([…])".into());
    };
    match &of.body {
        BodyField::Nothing => Ok(Taken::Nothing),
        BodyField::All => Ok(Taken::Message),
        BodyField::ByMethod if methods.iter().all(has_body) => Ok(Taken::Message),
        BodyField::ByMethod if !methods.iter().any(has_body) => Ok(Taken::Nothing),
        BodyField::ByMethod => {
            Err("some of its methods have a body and some have none: two routes".into())
        }
        BodyField::Field(name) => match find(&of.method.input(), name)?.as_slice() {
            [field] => Ok(Taken::Field(field.clone())),
            _ => Err(format!("the body {name:?} is no field of the message itself")),
        },
    }
}

/// The fields that the path says.
pub(super) fn paths(
    route: &Route,
    of: &GrpcMethod,
    pattern: &Pattern,
) -> Result<Vec<Bound>, String> {
    let each = || {
        let names = route.path.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        let names = names.map(|(name, _)| name.trim_start_matches('*').to_owned());
        let field = |name: String| {
            let renamed = of.renamed.iter().find(|(parameter, _)| **parameter == *name);
            let field = renamed.map_or_else(|| name.clone(), |(_, field)| field.to_string());
            (field, vec![Piece::Parameter(name)])
        };
        names.map(field).collect::<Vec<_>>()
    };
    let placed = |piece| match piece {
        Piece::Literal(literal) => Ok(Placed::Literal(literal)),
        Piece::Parameter(name) => match pattern.place(&name) {
            Some(place) => Ok(Placed::Parameter(place)),
            None => Err(format!("the path has no parameter {name:?}")),
        },
    };
    for (parameter, _) in &of.renamed {
        if pattern.place(parameter).is_none() {
            return Err(format!("the path has no parameter {parameter:?}"));
        }
    }
    let named = of.paths.clone().unwrap_or_else(each);
    let found = named.into_iter().map(|(name, pieces)| {
        let fields = find(&of.method.input(), &name)?;
        match fields.last() {
            Some(field) if is_sayable(field) && !field.is_list() => {
                let pieces = pieces.into_iter().map(placed).collect::<Result<_, _>>()?;
                Ok((fields, pieces))
            }
            _ => Err(format!("{name:?} is nothing that a path can say")),
        }
    });
    found.collect()
}
