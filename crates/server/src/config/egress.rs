//! The options of the way out.

use std::{fmt, net::IpAddr, path::PathBuf};

use clap::Args;
use ipnet::IpNet;
use tokenward::Secret;

use crate::egress::{AddressRules, Connector, ExtraRoots, Proxies};

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = |_| text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(address).map_err(|_| {
        "neither a network, such as 10.1.0.0/16, nor an address, such as 127.0.0.1".to_owned()
    })
}

/// Options of whatever connects to providers.
#[derive(Clone, Debug, Default, Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these are help texts, printed as they stand"
)]
#[command(next_help_heading = "Network options")]
pub struct EgressOptions {
    /// A private network or address that tokens may go to, such as 10.1.0.0/16 (may be repeated)
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_ALLOW_PRIVATE",
        value_name = "NETWORK",
        value_delimiter = ',',
        value_parser = network
    )]
    pub allow_private: Vec<IpNet>,
    /// The proxy to reach providers through, or `none` [default: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY]. NO_PROXY exempts hosts
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_PROXY",
        value_name = "URL",
        hide_env_values = true
    )]
    pub proxy: Option<ProxyUrl>,
    /// A PEM file of certificates to trust beside the system's, such as your own CA's (may be repeated)
    #[arg(long, global = true, env = "TOKENWARD_CA_FILE", value_name = "FILE")]
    pub ca_file: Vec<PathBuf>,
}

/// What `--proxy` says. It may hold a password.
#[derive(Clone)]
pub struct ProxyUrl(Secret);

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyUrl")
    }
}

/// Takes anything, because clap repeats what it refuses.
impl From<String> for ProxyUrl {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

impl EgressOptions {
    /// The way out that they describe.
    ///
    /// # Errors
    ///
    /// A proxy or a file of certificates that cannot be used.
    pub fn connector(&self) -> anyhow::Result<Connector> {
        let wish = self.proxy.as_ref().map(|proxy| proxy.0.expose());
        let proxies = Proxies::new(wish, |name| std::env::var(name).ok())?;
        let extra = ExtraRoots::read(&self.ca_file)?;
        let rules = AddressRules::new(self.allow_private.clone());
        Ok(Connector::new(rules, proxies, extra))
    }
}
