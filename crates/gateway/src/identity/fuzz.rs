use super::{PeerCertificate, api_key_file, jwks};

/// A set of keys, a file of API keys, or a certificate: nobody who can be read from afar gives away what others could sign with.
pub fn keys(data: &[u8]) {
    if let Ok(keys) = jwks::parse(data, jwks::From::Afar) {
        assert!(!keys.is_empty() && keys.iter().all(|key| !key.is_secret()));
    }
    let _ = jwks::parse(data, jwks::From::File);
    if let Ok(text) = std::str::from_utf8(data) {
        if let Err(error) = api_key_file::parse(text) {
            assert!(!error.to_string().is_empty());
        }
    }
    if let Ok(certificate) = PeerCertificate::from_der(data) {
        let names = certificate.uris().chain(certificate.dns_names());
        assert!(names.map(str::len).sum::<usize>() <= data.len());
    }
}
