//! A request that no stored variant matches: the origin may say that one of them is the answer all the same
//! (RFC 9111, section 4.1).

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response};

use super::coalesce::Use;
use super::fetch::{Client, Fetched, contradiction, freshened};
use super::outcome::Forward;
use super::policy::variants;
use super::policy::vary::{self, Vary};
use super::record::Since;
use super::service::Shared;
use super::stored::{Head, Stored};

/// The stored variants whose entity tags were sent.
pub(crate) struct Variants {
    offered: Vec<(Arc<Stored>, HeaderValue)>,
}

impl Variants {
    /// Puts the entity tags of what is stored into a request that goes on for everyone.
    pub(crate) fn ask(
        shared: &Shared,
        client: &Client,
        request: &mut HeaderMap,
        keep_conditions: bool,
    ) -> Option<Self> {
        let rules = &shared.options.rules;
        if !rules.validate_variants || client.forward != Forward::VaryMiss || keep_conditions {
            return None;
        }
        let state = &shared.state;
        let known = state.variants(&client.key, &state.now());
        let offered: Vec<_> = known
            .into_iter()
            .filter_map(|stored| {
                let fields = &stored.head.fields;
                let tag = fields.get(&ETAG).filter(|_| !stored.head.own_etag).cloned();
                let coding = fields.get(&CONTENT_ENCODING);
                let offered = variants::may_be_offered(tag.as_ref(), coding, &client.headers);
                Some((stored, tag.filter(|_| offered)?))
            })
            .collect();
        let list = variants::list(offered.iter().map(|(_, tag)| tag))?;
        request.insert(IF_NONE_MATCH, list);
        Some(Self { offered })
    }

    /// What a 304 means: the variant that it names answers this client, too, and all who ask as it did.
    pub(crate) fn settle<B>(
        self,
        shared: &Shared,
        client: &Client,
        response: Response<impl Sized>,
        requested: Duration,
        since: &Since,
    ) -> Fetched<B> {
        let (parts, _) = response.into_parts();
        let status = parts.status;
        let tags = self.offered.iter().map(|(_, tag)| tag);
        let Some(place) = variants::named(tags, &parts.headers) else {
            return contradiction(shared, client, status);
        };
        let offered = &self.offered[place].0;
        let (named, used) = freshened(shared, client, offered, parts, requested, since);
        let stored = Arc::new(selected_by(shared, client, &named));
        if used == Use::Validated {
            let is_wrong = || since.is_wrong(shared);
            shared.state.put(&client.key, &shared.options, stored.clone(), is_wrong);
        }
        Fetched::Stored(stored, used, Some(status))
    }
}

/// The same response, for requests such as this one.
fn selected_by(shared: &Shared, client: &Client, named: &Stored) -> Stored {
    let head = &named.head;
    let vary = Vary::parse(&head.fields.to_map(0), &shared.options.rules.key_headers);
    let selection = vary::selection(&vary, &client.headers);
    let head = Head { selection, ..Head::clone(head) };
    let trailers = named.trailers.as_deref().cloned();
    Stored::new(Arc::new(head), named.body.clone(), trailers)
}
