use super::Building;
use crate::{
    Builder, ByCertificate, IdentityHeaders,
    config::{
        file::HeadersSection,
        made::{api_keys, jwt},
    },
};

impl Building<'_> {
    /// With what tells who sends.
    pub(super) fn senders(&mut self, mut builder: Builder) -> Builder {
        let file = &self.config.file;
        let mut tokens = Vec::new();
        for section in &file.jwt {
            let before = self.kept.jwt.iter().find(|(before, _)| before == section);
            let made = before.map_or_else(|| jwt(section), |(_, jwt)| Ok(jwt.clone()));
            match made {
                Ok(jwt) => {
                    builder = builder.authenticate(jwt.clone());
                    tokens.push((section.clone(), jwt));
                }
                Err(error) => self.errors.push(error),
            }
        }
        self.kept.jwt = tokens;
        if let Some(section) = &file.api_keys {
            let made = match &self.kept.api_keys {
                Some((before, keys)) if before == section => Ok(keys.clone()),
                _ => api_keys(section),
            };
            match made {
                Ok(keys) => {
                    builder = builder.authenticate(keys.clone());
                    self.kept.api_keys = Some((section.clone(), keys));
                }
                Err(error) => self.errors.push(error),
            }
        }
        if let Some(section) = &file.certificates {
            builder = builder.authenticate(match &section.trust_domain {
                Some(domain) => ByCertificate::trust_domain(domain.as_str()),
                None => ByCertificate::new(),
            });
        }
        match &file.identity_headers {
            Some(section) => builder.identity_headers(names(section)),
            None => builder,
        }
    }
}

/// How upstreams are told of it.
fn names(section: &HeadersSection) -> IdentityHeaders {
    let mut names = IdentityHeaders::new();
    if let Some(name) = &section.subject {
        names = names.subject(name.clone());
    }
    if let Some(name) = &section.scopes {
        names = names.scopes(name.clone());
    }
    match &section.roles {
        Some(name) => names.roles(name.clone()),
        None => names,
    }
}
