use std::collections::HashMap;

use url::Url;

use super::*;

fn proxies(wish: Option<&str>, set: &[(&str, &str)]) -> Result<Proxies, NotAProxy> {
    let set: HashMap<_, _> = set.iter().copied().collect();
    Proxies::new(wish, |name| set.get(name).map(|&text| text.to_owned()))
}

fn way(proxies: &Proxies, url: &str) -> Option<String> {
    let to = Destination::of_url(&Url::parse(url).unwrap()).unwrap();
    proxies.of(&to).map(|proxy| proxy.to_string())
}

#[test]
fn variables_are_read_as_curl_reads_them() {
    let found = proxies(
        None,
        &[
            ("https_proxy", "http://lower:1"),
            ("HTTPS_PROXY", "http://upper:2"),
            ("ALL_PROXY", "all:3"),
        ],
    )
    .unwrap();
    assert_eq!(way(&found, "https://a.test/").unwrap(), "lower:1");
    assert_eq!(way(&found, "http://a.test/").unwrap(), "all:3");

    let for_http = proxies(None, &[("HTTP_PROXY", "plain.test")]).unwrap();
    assert_eq!(way(&for_http, "http://a.test/").unwrap(), "plain.test:80");
    assert_eq!(way(&for_http, "https://a.test/"), None);

    // Set and empty: none for this one.
    let empty = proxies(None, &[("https_proxy", ""), ("all_proxy", "http://p:1")]).unwrap();
    assert_eq!(way(&empty, "https://a.test/"), None);
    assert_eq!(way(&empty, "http://a.test/").unwrap(), "p:1");

    assert_eq!(way(&proxies(None, &[]).unwrap(), "https://a.test/"), None);
}

#[test]
fn the_option_comes_before_the_environment() {
    let set = [("HTTPS_PROXY", "http://env:1"), ("NO_PROXY", "past.test")];
    let wish = proxies(Some("https://wish"), &set).unwrap();
    assert_eq!(way(&wish, "https://a.test/").unwrap(), "wish:443");
    assert_eq!(way(&wish, "http://a.test/").unwrap(), "wish:443");
    assert_eq!(way(&wish, "https://past.test/"), None);
    for none in ["none", ""] {
        let none = proxies(Some(none), &set).unwrap();
        assert_eq!(way(&none, "https://a.test/"), None);
    }
}

#[test]
fn no_proxy_exempts_names_suffixes_addresses_and_networks() {
    let list = "one.test, .two.test\t*.three.test four.test.,10.0.0.0/8,192.0.2.1,[2001:db8::1],2001:db8:1::/48";
    let found = proxies(Some("http://p:1"), &[("no_proxy", list)]).unwrap();
    for past in [
        "https://one.test/",
        "https://ONE.test/",
        "https://one.test./",
        "https://sub.one.test/",
        "https://two.test/",
        "https://sub.two.test/",
        "https://sub.three.test/",
        "https://four.test/",
        "https://10.1.2.3/",
        "https://192.0.2.1/",
        "https://[2001:db8::1]/",
        "https://[2001:db8:1::5]/",
        "http://one.test:8080/",
    ] {
        assert_eq!(way(&found, past), None, "{past}");
    }
    for through in [
        "https://other.test/",
        "https://notone.test/",
        "https://one.test.evil.test/",
        "https://11.1.2.3/",
        "https://[2001:db8::2]/",
    ] {
        assert_eq!(way(&found, through).unwrap(), "p:1", "{through}");
    }
    let all = proxies(Some("http://p:1"), &[("NO_PROXY", "*")]).unwrap();
    assert_eq!(way(&all, "https://a.test/"), None);
}

#[test]
fn this_machine_is_behind_no_proxy() {
    let found = proxies(Some("http://p:1"), &[]).unwrap();
    for here in [
        "http://localhost:8080/",
        "http://LOCALHOST/",
        "http://a.localhost/",
        "http://127.0.0.1/",
        "http://127.8.8.8/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
    ] {
        assert_eq!(way(&found, here), None, "{here}");
    }
    assert!(way(&found, "http://localhost.test/").is_some());
}

#[test]
fn what_is_no_proxy_is_refused_without_repeating_it() {
    for (wish, set, name) in [
        (Some("ftp://hunter2@p"), None, "--proxy"),
        (Some("socks4://user:hunter2@p"), None, "--proxy"),
        (Some("http://user:hunter2@"), None, "--proxy"),
        (
            None,
            Some(("HTTPS_PROXY", "http://user:hunter2@p:port")),
            "HTTPS_PROXY",
        ),
        (None, Some(("all_proxy", "user:hunter2 @p")), "all_proxy"),
    ] {
        let set: Vec<_> = set.into_iter().collect();
        let refused = proxies(wish, &set).unwrap_err().to_string();
        assert!(refused.starts_with(name), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}

#[test]
fn credentials_are_decoded_and_shown_to_nobody() {
    let found = proxies(Some("http://us%40er:hunter2%3A@p:1"), &[]).unwrap();
    let to = Destination::of_url(&Url::parse("https://a.test/").unwrap()).unwrap();
    let proxy = found.of(&to).unwrap();
    // us@er:hunter2:
    assert_eq!(proxy.0.basic_auth().unwrap(), "Basic dXNAZXI6aHVudGVyMjo=");
    let shown = format!("{found:?} {proxy:?} {proxy} {:?}", proxy.0.basic_auth());
    assert!(
        !shown.contains("hunter2") && !shown.contains("dXNA"),
        "{shown}"
    );
}
