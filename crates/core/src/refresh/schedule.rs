//! When a token counts as stale, and when it is refreshed ahead of that.

use std::time::Duration;

/// The margin before expiry (Apideck's guide: 30 s).
pub const DEFAULT_MARGIN: Duration = Duration::from_secs(30);

/// A token that is said to live shorter counts as living so long from the moment it was asked for:
/// a provider that says `expires_in: 0` costs one refresh for all who ask within a second.
pub const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);

/// Nothing is refreshed ahead of time sooner than this after its last refresh. Tokens that live
/// shorter are refreshed when somebody asks.
pub const EARLIEST_AHEAD: Duration = Duration::from_secs(5);

/// A token with less than this left is stale.
///
/// `configured`, but never more than a quarter of the token's lifetime: a provider with short
/// tokens must not be refreshed on every request.
pub fn margin(configured: Duration, lifetime: Option<Duration>) -> Duration {
    match lifetime {
        Some(lifetime) => configured.min(lifetime / 4),
        None => configured,
    }
}

/// Whether a lifetime is too short to be managed: such a token is gone before it is of use to more
/// than the requests that waited for it, and another refresh would bring no better one.
pub fn fleeting(lifetime: Duration) -> bool {
    lifetime < EARLIEST_AHEAD
}

/// How long before expiry a grant in use is refreshed, so that no caller waits: between one and
/// two margins, by `chance`, so that grants issued together do not refresh together.
pub fn ahead(margin: Duration, chance: f64) -> Duration {
    margin + margin.mul_f64(chance)
}

/// When an idle grant is refreshed so that its refresh token does not die of disuse: at half of
/// its lifetime, moved by up to a tenth.
pub fn keep_alive(refresh_lifetime: Duration, chance: f64) -> Duration {
    (refresh_lifetime / 2).mul_f64(0.9 + 0.2 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn margin_is_bounded_by_a_share_of_the_lifetime() {
        assert_eq!(margin(30 * S, Some(3600 * S)), 30 * S);
        assert_eq!(margin(30 * S, Some(40 * S)), 10 * S);
        assert_eq!(margin(30 * S, None), 30 * S);
    }

    #[test]
    fn ahead_is_before_the_margin() {
        assert_eq!(ahead(30 * S, 0.0), 30 * S);
        assert!(ahead(30 * S, 0.999) < 60 * S);
    }

    #[test]
    fn keep_alive_is_well_inside_the_lifetime() {
        for chance in [0.0, 0.5, 0.999] {
            let at = keep_alive(1000 * S, chance);
            assert!(at >= 450 * S && at <= 550 * S, "{at:?}");
        }
    }
}
