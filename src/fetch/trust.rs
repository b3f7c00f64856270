//! Whom to believe that a binary is what it claims to be.

use minisign_verify::{Error as Minisign, PublicKey, Signature, StreamVerifier};

use super::failure::Failure;
use crate::error::Error;

/// What a binary must show. Without a key and without a digest nothing is trusted, unless the user has
/// said so.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    keys: Vec<String>,
    digest: Option<String>,
    unverified: bool,
}

impl Trust {
    pub(super) fn key(&mut self, key: String) {
        self.keys.push(key);
    }

    pub(super) fn digest(&mut self, digest: String) {
        self.digest = Some(digest.to_ascii_lowercase());
    }

    pub(super) fn anything(&mut self) {
        self.unverified = true;
    }

    pub(super) fn wants_signature(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The only digest that is trusted, if it is one.
    pub(super) fn pinned(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Makes sure that it can be kept.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.keys.is_empty() && self.digest.is_none() && !self.unverified {
            return Err(Error::config(
                "cannot upgrade by itself without a minisign key or a SHA-256: allow_unverified() \
                 trusts the source",
            ));
        }
        if let Some(digest) = &self.digest
            && !is_digest(digest)
        {
            return Err(Error::config(format!("{digest:?} is no SHA-256 in hexadecimal")));
        }
        self.public_keys().map(drop)
    }

    fn public_keys(&self) -> Result<Vec<PublicKey>, Error> {
        let parse = |text: &String| {
            // A whole key file, or its second line.
            let text = text.trim();
            let key = match text.contains('\n') {
                true => PublicKey::decode(text),
                false => PublicKey::from_base64(text),
            };
            key.map_err(|error| {
                Error::config(format!("{text:?} is no minisign public key")).because(error)
            })
        };
        self.keys.iter().map(parse).collect()
    }

    /// What checks a download against this.
    pub(super) fn seal(
        &self,
        signature: Option<&str>,
        claimed: Option<&str>,
    ) -> Result<Seal, Failure> {
        let signed = match (self.wants_signature(), signature) {
            (false, _) => None,
            (true, None) => return Err(Failure::NoSignature),
            (true, Some(text)) => {
                let garbled = |error: Minisign| Failure::GarbledSignature(error.to_string());
                let signature = Signature::decode(text.trim_end()).map_err(garbled)?;
                // They were parsed at the start.
                let keys = self.public_keys().unwrap_or_default();
                Some((signed_by(keys, &signature)?, signature))
            }
        };
        let digests = self.digest.as_deref().into_iter().chain(claimed);
        Ok(Seal { signed, digests: digests.map(str::to_ascii_lowercase).collect() })
    }
}

/// The key with which it is signed.
fn signed_by(keys: Vec<PublicKey>, signature: &Signature) -> Result<PublicKey, Failure> {
    for key in keys {
        match key.verify_stream(signature) {
            Ok(_) => return Ok(key),
            Err(Minisign::UnexpectedKeyId) => {}
            Err(error) => return Err(Failure::GarbledSignature(error.to_string())),
        }
    }
    Err(Failure::OtherKey)
}

/// What one download must match.
pub(super) struct Seal {
    signed: Option<(PublicKey, Signature)>,
    digests: Vec<String>,
}

impl Seal {
    /// Reads the download along; nothing where no signature is wanted.
    pub(super) fn verifier(&self) -> Result<Option<StreamVerifier<'_>>, Failure> {
        let Some((key, signature)) = &self.signed else { return Ok(None) };
        let garbled = |error: Minisign| Failure::GarbledSignature(error.to_string());
        key.verify_stream(signature).map(Some).map_err(garbled)
    }

    /// Whether it could tell one binary from another.
    pub(super) fn is_telling(&self) -> bool {
        self.signed.is_some() || !self.digests.is_empty()
    }

    /// Judges a download by its whole content.
    pub(super) fn verify(
        &self,
        verifier: Option<StreamVerifier<'_>>,
        digest: &str,
    ) -> Result<(), Failure> {
        if let Some(expected) = self.digests.iter().find(|expected| *expected != digest) {
            let (expected, actual) = (expected.clone(), digest.to_owned());
            return Err(Failure::WrongDigest { expected, actual });
        }
        match verifier.map(|mut verifier| verifier.finalize()) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(Failure::WrongSignature),
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use minisign::KeyPair;

    use super::*;

    fn sign(keys: &KeyPair, content: &[u8]) -> String {
        minisign::sign(Some(&keys.pk), &keys.sk, Cursor::new(content), None, None)
            .unwrap()
            .into_string()
    }

    fn trust(keys: &[&KeyPair]) -> Trust {
        let mut trust = Trust::default();
        keys.iter().for_each(|keys| trust.key(keys.pk.to_base64()));
        trust
    }

    fn judge(trust: &Trust, signature: Option<&str>, content: &[u8]) -> Result<(), Failure> {
        let seal = trust.seal(signature, None)?;
        let mut verifier = seal.verifier()?;
        if let Some(verifier) = &mut verifier {
            // Byte by byte: where a stream is cut does not matter.
            content.iter().for_each(|byte| verifier.update(&[*byte]));
        }
        seal.verify(verifier, "00")
    }

    #[test]
    fn only_what_a_trusted_key_has_signed_is_taken() {
        let pair = || KeyPair::generate_unencrypted_keypair().unwrap();
        let (ours, other) = (pair(), pair());
        let signature = sign(&ours, b"the binary");
        let trusted = trust(&[&other, &ours]);
        trusted.check().unwrap();
        assert!(judge(&trusted, Some(&signature), b"the binary").is_ok());
        let is = |result: Result<(), Failure>, why: &str| {
            let failure = result.unwrap_err().to_string();
            assert!(failure.contains(why), "{failure}");
        };
        is(judge(&trusted, Some(&signature), b"the binarz"), "not that of the download");
        is(judge(&trusted, None, b"the binary"), "without a signature");
        is(judge(&trusted, Some("<html>"), b"the binary"), "cannot be used");
        is(judge(&trust(&[&other]), Some(&signature), b"the binary"), "key that is not trusted");
        // The comment is signed, too.
        let forged = signature.replace("trusted comment: ", "trusted comment: newer ");
        is(judge(&trusted, Some(&forged), b"the binary"), "not that of the download");
    }

    #[test]
    fn trusting_nothing_is_no_way_to_start() {
        assert!(Trust::default().check().unwrap_err().is_config());
        let mut trust = Trust::default();
        trust.anything();
        trust.check().unwrap();
        trust.key("RWnonsense".to_owned());
        assert!(trust.check().unwrap_err().is_config());
        let mut pinned = Trust::default();
        pinned.digest("abc".to_owned());
        assert!(pinned.check().unwrap_err().is_config());
        pinned.digest("AB".repeat(32));
        pinned.check().unwrap();
        assert_eq!(pinned.pinned().unwrap(), "ab".repeat(32));
    }

    #[test]
    fn every_digest_must_be_right() {
        let digest = "ab".repeat(32);
        let mut pinned = Trust::default();
        pinned.digest(digest.clone());
        let verify = |claimed: Option<&str>, actual: &str| {
            pinned.seal(None, claimed).unwrap().verify(None, actual)
        };
        assert!(verify(None, &digest).is_ok());
        assert!(verify(Some(&digest.to_uppercase()), &digest).is_ok());
        assert!(matches!(verify(None, "cd"), Err(Failure::WrongDigest { .. })));
        assert!(matches!(verify(Some("cd"), &digest), Err(Failure::WrongDigest { .. })));
    }
}
