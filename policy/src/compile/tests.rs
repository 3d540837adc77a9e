use super::*;

fn errors(change: impl Fn(&mut RuleSpec)) -> Vec<RuleError> {
    let mut spec = RuleSpec::new("a", Action::Allow);
    change(&mut spec);
    compile(vec![spec]).err().unwrap_or_default()
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn a_mistake_is_reported_at_its_rule_key_and_item() {
    let mut second = RuleSpec::new("b", Action::Allow);
    second.path = strings(&["/ok", "bad"]);
    let errors = compile(vec![RuleSpec::new("a", Action::Allow), second]).unwrap_err();
    assert_eq!(errors.len(), 1);
    let RuleError {
        rule,
        key,
        item,
        id,
        ..
    } = &errors[0];
    assert_eq!((*rule, *key, *item, &**id), (1, "path", Some(1), "b"));
    assert!(
        errors[0].to_string().starts_with("rule 2 (\"b\"), path: "),
        "{}",
        errors[0]
    );
}

#[test]
fn every_mistake_of_every_rule_is_reported_at_once() {
    let bad = || RuleSpec {
        method: strings(&["get", "Post"]),
        ..RuleSpec::new("", Action::Allow)
    };
    let errors = compile(vec![bad(), bad()]).unwrap_err();
    let keys: Vec<_> = errors.iter().map(|error| (error.rule, error.key)).collect();
    assert_eq!(
        keys,
        [
            (0, "id"),
            (0, "method"),
            (0, "method"),
            (1, "id"),
            (1, "id"),
            (1, "method"),
            (1, "method")
        ]
    );
}

#[test]
fn what_could_never_match_is_refused() {
    type Change = fn(&mut RuleSpec);
    let table: [(&str, Change); 25] = [
        ("host", |rule| rule.host = strings(&["ESX-01"])),
        ("host", |rule| rule.host = strings(&["esx-01."])),
        ("host", |rule| rule.host = strings(&[""])),
        ("host", |rule| rule.host = strings(&["esx-01:443"])),
        ("host", |rule| rule.host = strings(&["*.sddc.local:*"])),
        ("host", |rule| rule.host = strings(&["2001:0db8::1"])),
        ("port", |rule| rule.port = vec![0]),
        ("port", |rule| {
            rule.mode = vec![Mode::Http];
            rule.port = vec![443];
        }),
        ("id", |rule| rule.id = "x".repeat(129)),
        ("id", |rule| rule.id = "a\nb".to_owned()),
        ("endpoint", |rule| rule.endpoint = strings(&["VCENTER"])),
        ("endpoint", |rule| rule.endpoint = strings(&[""])),
        ("method", |rule| rule.method = strings(&["*"])),
        ("caller", |rule| rule.caller = strings(&[""])),
        ("scope", |rule| rule.scope = strings(&["a b"])),
        ("scope", |rule| rule.scope = strings(&["a*"])),
        ("query", |rule| {
            rule.query = vec![("a".to_owned(), Vec::new())]
        }),
        ("query", |rule| {
            rule.query = vec![("%61".to_owned(), strings(&["b"]))]
        }),
        ("query", |rule| {
            rule.query = vec![("a".to_owned(), strings(&["b;c"]))]
        }),
        ("soap_op", |rule| {
            rule.soap_op = Some(SoapOps::Names(strings(&["all"])))
        }),
        ("soap_op", |rule| {
            rule.soap_op = Some(SoapOps::Names(Vec::new()))
        }),
        ("soap_op", |rule| {
            rule.soap_op = Some(SoapOps::Names(strings(&["a b"])))
        }),
        ("soap_ns", |rule| {
            rule.soap_ns = Some("urn:vim25".to_owned())
        }),
        ("upgrade", |rule| rule.upgrade = strings(&["a, b"])),
        ("source", |rule| {
            rule.source = vec!["::/64".parse().unwrap()]
        }),
    ];
    for (key, change) in table {
        let errors = errors(change);
        assert_eq!(errors.len(), 1, "{key}: {errors:?}");
        assert_eq!(errors[0].key, key);
    }
    assert!(errors(|_| ()).is_empty());
    let addresses = ["10.0.0.*", "2001:db8::1", "2001:db8:*", "::ffff:192.0.2.1"];
    assert!(errors(|rule| rule.host = strings(&addresses)).is_empty());
}

#[test]
fn a_deny_rule_has_no_limits() {
    let errors = errors(|rule| {
        rule.action = Action::Deny;
        rule.max_body = Some(1);
        rule.rate = Some("1/s".parse().unwrap());
    });
    assert_eq!(
        errors.iter().map(|error| error.key).collect::<Vec<_>>(),
        ["max_body", "rate"]
    );
}

#[test]
fn a_rate_is_a_positive_number_in_a_known_time() {
    for (text, shown) in [
        ("20/s", "20/s"),
        ("100 / min", "100/m"),
        ("5/m", "5/m"),
        ("1/h", "1/h"),
    ] {
        assert_eq!(text.parse::<crate::Rate>().unwrap().to_string(), shown);
    }
    for text in [
        "",
        "20",
        "/s",
        "0/s",
        "-1/s",
        "+1/s",
        "1.5/s",
        "20/d",
        "20/S",
        "99999999999/s",
    ] {
        assert!(text.parse::<crate::Rate>().is_err(), "{text}");
    }
}

#[test]
fn lists_and_patterns_have_bounds() {
    let long = |byte: &str, count| strings(&[&format!("/{}", byte.repeat(count))]);
    assert_eq!(errors(|rule| rule.path = long("a", MAX_PATTERN)).len(), 1);
    assert!(errors(|rule| rule.path = long("a", MAX_PATTERN - 1)).is_empty());
    assert_eq!(
        errors(|rule| rule.path = long("a*", MAX_STARS + 1)).len(),
        1
    );
    assert_eq!(
        errors(|rule| rule.caller = long("a*", MAX_STARS + 1)).len(),
        1
    );
    let host = |count| strings(&[&"a*".repeat(count)]);
    assert_eq!(errors(|rule| rule.host = host(MAX_STARS + 1)).len(), 1);
    assert!(errors(|rule| rule.host = host(MAX_STARS)).is_empty());
    let many = vec!["x".to_owned(); MAX_ITEMS + 1];
    assert_eq!(errors(|rule| rule.scope = many.clone())[0].key, "scope");
    assert!(errors(|rule| rule.scope = many[1..].to_vec()).is_empty());
    assert!(errors(|rule| rule.id = "x".repeat(MAX_ID)).is_empty());
    let values = |count| vec![("q".to_owned(), many[..count].to_vec())];
    assert_eq!(errors(|rule| rule.query = values(MAX_ITEMS + 1)).len(), 1);
    assert!(errors(|rule| rule.query = values(MAX_ITEMS)).is_empty());
    let rules = (0..=MAX_RULES).map(|at| RuleSpec::new(at.to_string(), Action::Allow));
    let errors = compile(rules.collect()).unwrap_err();
    assert_eq!((errors.len(), errors[0].rule), (1, MAX_RULES));
}
