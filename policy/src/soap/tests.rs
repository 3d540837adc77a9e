use proptest::prelude::*;

use super::*;

const NS11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const NS12: &str = "http://www.w3.org/2003/05/soap-envelope";

fn envelope(inside: &str) -> String {
    format!(r#"<e:Envelope xmlns:e="{NS11}" xmlns:v="urn:vim25">{inside}</e:Envelope>"#)
}

fn body(inside: &str) -> String {
    envelope(&format!("<e:Body>{inside}</e:Body>"))
}

fn read(text: &str) -> Result<(String, String), SoapError> {
    match operation(text.as_bytes(), true)? {
        SoapOutcome::Operation(Operation { ns, name }) => Ok((ns, name)),
        SoapOutcome::NeedMore => panic!("{text:?} is complete"),
    }
}

fn vim25(name: &str) -> Result<(String, String), SoapError> {
    Ok(("urn:vim25".to_owned(), name.to_owned()))
}

/// As pyvmomi writes it.
const PYVMOMI: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<soapenv:Body><RetrieveServiceContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></RetrieveServiceContent></soapenv:Body>
</soapenv:Envelope>"#;

/// As govc writes it.
const GOVC: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Header><operationID xmlns="urn:vim25">1-2</operationID></Header><Body><Destroy_Task xmlns="urn:vim25"><_this type="VirtualMachine">vm-42</_this></Destroy_Task></Body></Envelope>"#;

#[test]
fn the_operation_is_the_child_of_the_body() {
    for (text, name) in [
        (PYVMOMI.to_owned(), "RetrieveServiceContent"),
        (GOVC.to_owned(), "Destroy_Task"),
        (format!("{GOVC}\r\n\t "), "Destroy_Task"),
        (format!("\u{feff}{GOVC}"), "Destroy_Task"),
        (body("<v:Login/>"), "Login"),
        (
            body(
                " \n<v:Login a='1' b=\"2\"><v:x>text &lt; &#65; <![CDATA[<Body>]]></v:x></v:Login >",
            ),
            "Login",
        ),
        (envelope("<e:Header/><e:Body><v:Login/></e:Body>"), "Login"),
        (
            envelope("<e:Header><v:Body/>text</e:Header><e:Body a='b'><v:Login/></e:Body>"),
            "Login",
        ),
        (body("<v:Login/>").replace(NS11, NS12), "Login"),
        (body("<Login xmlns='urn:vim25'/>"), "Login"),
        (body("<e:Login xmlns:e='urn:vim25'/>"), "Login"),
        (
            format!("<?xml version='1.0'?>{}", body("<v:Login/>")),
            "Login",
        ),
        (
            format!(
                "<?xml version='1.0' encoding='utf-8' standalone='yes' ?>{}",
                body("<v:Login/>")
            ),
            "Login",
        ),
    ] {
        assert_eq!(read(&text), vim25(name), "{text}");
    }
    assert_eq!(
        read(&body("<Login/>")),
        Ok((String::new(), "Login".to_owned()))
    );
    assert_eq!(
        read(&body("<v:Login xmlns:v='urn:x'/>")),
        Ok(("urn:x".to_owned(), "Login".to_owned()))
    );
}

#[test]
fn a_body_that_two_parsers_could_read_differently_is_refused() {
    use SoapError::*;
    let login = body("<v:Login/>");
    for (text, error) in [
        (String::new(), NotSoap),
        ("   ".to_owned(), NotSoap),
        ("{\"a\":1}".to_owned(), NotSoap),
        ("a=b".to_owned(), NotSoap),
        ("<html/>".to_owned(), NotSoap),
        (login.replace(NS11, "urn:other"), NotSoap),
        (login.replace("e:Envelope", "v:Envelope"), NotSoap),
        (
            "<Envelope><Body><Login/></Body></Envelope>".to_owned(),
            NotSoap,
        ),
        (format!("<!DOCTYPE x>{login}"), Doctype),
        (
            format!("<!DOCTYPE x [<!ENTITY o 'Login'>]>{login}"),
            Doctype,
        ),
        (format!("<!doctype x>{login}"), Doctype),
        (body("<v:Login/><!DOCTYPE x>"), Doctype),
        (format!("<!-- c -->{login}"), Markup),
        (body("<!-- <v:A/> --><v:Login/>"), Markup),
        (body("<v:Login><!-- --></v:Login>"), Markup),
        (body("<?php x?><v:Login/>"), Markup),
        (format!("{login}<?x y?>"), Markup),
        (format!(" <?xml version='1.0'?>{login}"), Malformed),
        (format!("<?xml version='1.1'?>{login}"), Malformed),
        (format!("<?xml encoding='utf-8'?>{login}"), Malformed),
        (
            format!("<?xml version='1.0' encoding='utf-16'?>{login}"),
            Encoding,
        ),
        (
            format!("<?xml version='1.0' encoding='iso-8859-1'?>{login}"),
            Encoding,
        ),
        (
            format!("<?xml version='1.0' encoding='utf-8' encoding='utf-7'?>{login}"),
            Malformed,
        ),
        (
            format!("<?xml version='1.0'?><?xml version='1.0'?>{login}"),
            Malformed,
        ),
        (format!("{login}{login}"), Malformed),
        (format!("{login}x"), Malformed),
        (format!("{login}<x/>"), Malformed),
        (format!("x{login}"), NotSoap),
        (envelope(""), NoOperation),
        (envelope("<e:Header/>"), NoOperation),
        (body(""), NoOperation),
        (body(" "), NoOperation),
        (body("x"), SecondOperation),
        (body("&#65;"), SecondOperation),
        (body("<![CDATA[x]]>"), SecondOperation),
        (body("<v:Login/><v:Destroy_Task/>"), SecondOperation),
        (body("<v:Login/><v:Login/>"), SecondOperation),
        (body("<v:Login/>x"), SecondOperation),
        (
            envelope("<e:Body><v:A/></e:Body><e:Body><v:B/></e:Body>"),
            Envelope,
        ),
        (
            envelope("<e:Header/><e:Header/><e:Body><v:A/></e:Body>"),
            Envelope,
        ),
        (envelope("<e:Body><v:A/></e:Body><e:Header/>"), Envelope),
        (envelope("<v:Body><v:A/></v:Body>"), Envelope),
        (envelope("<Body><v:A/></Body>"), Envelope),
        (envelope("<e:body><v:A/></e:body>"), Envelope),
        (envelope("<v:x/><e:Body><v:A/></e:Body>"), Envelope),
        (envelope("x<e:Body><v:A/></e:Body>"), Envelope),
        (body("<v:Login></v:Logout>"), Malformed),
        (body("<v:Login>"), Malformed),
        (body("<w:Login/>"), Malformed),
        (body("<v:Login><w:x/></v:Login>"), Malformed),
        (body("<v:Login a='1' a='2'/>"), Malformed),
        (body("<v:Login a=1/>"), Malformed),
        (body("<v:Login a/>"), Malformed),
        (body("<v:Login a='<'/>"), Malformed),
        (body("<v:Log%in/>"), Malformed),
        (body("<v:L\u{f6}gin/>"), Malformed),
        (body("<v:v:Login/>"), Malformed),
        (body("<:Login/>"), Malformed),
        (body("<v:/>"), Malformed),
        (body("< v:Login/>"), Malformed),
        (body("</v:Login>"), Malformed),
        (body("<Login xmlns='urn:vim&#50;5'/>"), Malformed),
        (body("<v:Login xmlns:v=''/>"), Malformed),
        (body("<v:Login xmlns:x=''/>"), Malformed),
        (body("<v:Login>&unknown;</v:Login>"), Malformed),
        (body("<v:Login>&#0;</v:Login>"), Malformed),
        (body("<v:Login>& </v:Login>"), Malformed),
        (body("<v:Login>\u{1}</v:Login>"), Malformed),
        (body("<v:Login>\0</v:Login>"), Malformed),
        (body("<v:Login><![CDATA[x</v:Login>"), Malformed),
    ] {
        let found = read(&text);
        assert_eq!(found, Err(error), "{text}");
    }
    for cut in 1..login.len() {
        let text = &login[..cut];
        assert!(
            matches!(read(text), Err(Truncated | Malformed | NotSoap)),
            "{text}"
        );
    }
}

/// What an attacker would try so that the policy reads one operation and the server another.
#[test]
fn a_hostile_envelope_is_refused_or_read_as_a_server_reads_it() {
    use SoapError::*;
    let inner = body("<v:Destroy_Task/>");
    let login = |inside: &str| body(&format!("<v:Login>{inside}</v:Login>"));
    for (text, expected) in [
        // What is inside of the operation is its argument, but for servers that look for the first
        // `Body`, or the last one, wherever it is.
        (login(&inner), Err(Envelope)),
        (login("<e:Body><v:Destroy_Task/></e:Body>"), Err(Envelope)),
        (
            envelope(
                "<e:Header><e:Body><v:Destroy_Task/></e:Body></e:Header><e:Body><v:Login/></e:Body>",
            ),
            Err(Envelope),
        ),
        (
            login(&format!("<b:Header xmlns:b='{NS12}'/>")),
            Err(Envelope),
        ),
        (login("<v:Body><v:Destroy_Task/></v:Body>"), vim25("Login")),
        (login(&format!("<![CDATA[{inner}]]>")), vim25("Login")),
        (
            login("<v:x xsi:type='v:Destroy_Task' xmlns:xsi='urn:xsi'/>"),
            vim25("Login"),
        ),
        (
            envelope("<e:Header><v:Destroy_Task/></e:Header><e:Body><v:Login/></e:Body>"),
            vim25("Login"),
        ),
        // The prefix says nothing, the namespace everything.
        (
            body("<e:Login xmlns:e='urn:vim25'/>").replace("<e:Body>", "<e:Body xmlns:v='urn:x'>"),
            vim25("Login"),
        ),
        (
            envelope("<e:Body xmlns:e='urn:vim25'><v:Login/></e:Body>"),
            Err(Envelope),
        ),
        (
            envelope(&format!("<b:Body xmlns:b='{NS11}'><v:Login/></b:Body>")),
            vim25("Login"),
        ),
        (
            envelope(&format!("<b:Body xmlns:b='{NS12}'><v:Login/></b:Body>")),
            Err(Envelope),
        ),
        // Two operations, two bodies, two envelopes, however they are wrapped.
        (
            body("<v:Login></v:Login><v:Destroy_Task></v:Destroy_Task>"),
            Err(SecondOperation),
        ),
        (
            body("<![CDATA[<v:Destroy_Task/>]]><v:Login/>"),
            Err(SecondOperation),
        ),
        (
            envelope(&format!("<e:Body>{inner}</e:Body>")),
            Err(Envelope),
        ),
        (format!("{}{inner}", body("<v:Login/>")), Err(Malformed)),
        (login("</v:Login><v:Destroy_Task>"), Err(SecondOperation)),
        // What some parsers drop, and others keep.
        (body("<v:Login/>&#32;"), Err(SecondOperation)),
        (body("\u{a0}<v:Login/>"), Err(SecondOperation)),
        (body("<v:Log<!-- -->in/>"), Err(Malformed)),
        (body("<v:Login/><!-- <v:Destroy_Task/> -->"), Err(Markup)),
        (body("<?xml-stylesheet href='x'?><v:Login/>"), Err(Markup)),
        (login("<!ENTITY x 'y'>"), Err(Malformed)),
        (
            body("<v:Login/>").replace("e:Envelope", "E:Envelope"),
            Err(Malformed),
        ),
    ] {
        assert_eq!(read(&text), expected, "{text}");
    }
    let mut big_endian = vec![0xFE, 0xFF];
    big_endian.extend(inner.encode_utf16().flat_map(u16::to_be_bytes));
    assert_eq!(operation(&big_endian, true), Err(Encoding));
    let utf7 = format!("+ADw-x/{inner}");
    assert_eq!(operation(utf7.as_bytes(), true), Err(NotSoap));
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00";
    assert_eq!(operation(gzip, true), Err(Encoding));
}

#[test]
fn other_encodings_are_refused() {
    let text = body("<v:Login/>");
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(operation(&utf16, true).is_err());
    let latin1 = body("<v:Login a='?'/>").replace('?', "\u{e4}");
    let latin1: Vec<u8> = latin1
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect();
    assert_eq!(operation(&latin1, true), Err(SoapError::Encoding));
}

#[test]
fn a_content_type_may_call_the_body_anything_but_must_not_disagree() {
    use ContentTypeError::*;
    let login = Operation {
        ns: "urn:vim25".to_owned(),
        name: "Login".to_owned(),
    };
    for (value, expected) in [
        ("", Ok(())),
        ("text/xml", Ok(())),
        ("application/json", Ok(())),
        ("text/xml; charset=utf-8", Ok(())),
        ("text/xml; action=Login; Charset=\"UTF-8\"", Ok(())),
        ("application/soap+xml; action=\"urn:vim25/8.0\"", Ok(())),
        ("text/xml; charset=utf-16", Err(Charset)),
        ("text/xml; charset=utf-7", Err(Charset)),
        ("text/xml; charset=utf-8; charset=utf-16", Err(Charset)),
        ("text/xml; x=\"; charset=utf-16\"", Err(Charset)),
        ("text/xml;charset=", Err(Charset)),
        ("text/xml; charset*=us-ascii''utf-16", Err(Charset)),
        ("text/xml; charset*0=utf-; charset*1=16", Err(Charset)),
        ("text/xml; charset =utf-16", Err(Charset)),
        ("text/xml charset=utf-7", Err(Charset)),
        ("text/xml; x=y Charset=utf-7", Err(Charset)),
        ("text/xml; xcharset=utf-7", Err(Charset)),
        ("text/xml; charset=utf-8 charset=utf-7", Err(Charset)),
        (
            "text/xml; action*=us-ascii''urn:vim25/Destroy_Task",
            Err(Action),
        ),
        ("text/xml, multipart/related; boundary=x", Err(Unclear)),
        ("text/xml; x=\u{fffd}", Err(Unclear)),
        (
            "multipart/related; type=\"text/xml\"; boundary=x",
            Err(Multipart),
        ),
        (" Multipart/mixed;boundary=x", Err(Multipart)),
        (
            "application/soap+xml; action=\"urn:vim25/Destroy_Task\"",
            Err(Action),
        ),
    ] {
        assert_eq!(check_content_type(value, &login), expected, "{value}");
    }
}

#[test]
fn a_body_of_the_json_twin_begins_as_no_xml_does() {
    for (body, complete, expected) in [
        ("", true, Some(true)),
        ("", false, None),
        (" \r\n\t", false, None),
        (" ", true, Some(false)),
        ("{", false, Some(true)),
        (" {}", true, Some(true)),
        ("<", false, Some(false)),
        ("\u{feff}{}", true, Some(false)),
        ("[]", true, Some(false)),
        ("--x", false, Some(false)),
    ] {
        assert_eq!(is_json(body.as_bytes(), complete), expected, "{body:?}");
    }
    assert_eq!(is_json(&[b' '; MAX_PREFIX], false), Some(false));
}

#[test]
fn an_undecided_beginning_asks_for_more_and_never_guesses() {
    for text in [PYVMOMI, GOVC] {
        for cut in 0..=text.len() {
            let found = operation(&text.as_bytes()[..cut], false);
            assert_eq!(found, Ok(SoapOutcome::NeedMore), "{}", &text[..cut]);
        }
    }
}

#[test]
fn what_is_wrong_already_is_refused_before_the_end() {
    let unbalanced = body("<v:Login></v:Logout>");
    for (text, error) in [
        ("<!DOCTYPE x>", SoapError::Doctype),
        ("<html>", SoapError::NotSoap),
        ("{\"a\": \">", SoapError::NotSoap),
        (&unbalanced, SoapError::Malformed),
    ] {
        assert_eq!(operation(text.as_bytes(), false), Err(error), "{text}");
    }
}

#[test]
fn an_operation_longer_than_the_limit_is_known_by_its_beginning() {
    let filler = format!("<v:x>{}</v:x>", "y".repeat(100)).repeat(1000);
    let long = body(&format!("<v:Login>{filler}</v:Login>"));
    assert!(long.len() > MAX_PREFIX);
    let expected = SoapOutcome::Operation(Operation {
        ns: "urn:vim25".to_owned(),
        name: "Login".to_owned(),
    });
    assert_eq!(operation(long.as_bytes(), true).as_ref(), Ok(&expected));
    assert_eq!(
        operation(&long.as_bytes()[..MAX_PREFIX], false),
        Ok(expected)
    );
    assert_eq!(
        operation(&long.as_bytes()[..MAX_PREFIX - 1], false),
        Ok(SoapOutcome::NeedMore)
    );
}

#[test]
fn nothing_hides_behind_the_limit() {
    let space = " ".repeat(MAX_PREFIX);
    let filler = format!("<v:x>{}</v:x>", "y".repeat(100)).repeat(1000);
    for text in [
        body(&format!("{space}<v:Login/>")),
        body(&format!("<v:Login/>{space}<v:Destroy_Task/>")),
        format!("{}{space}", body("<v:Login/>")),
        envelope(&format!(
            "<e:Header>{filler}</e:Header><e:Body><v:Login/></e:Body>"
        )),
    ] {
        assert_eq!(operation(text.as_bytes(), true), Err(SoapError::TooLong));
        assert_eq!(
            operation(&text.as_bytes()[..MAX_PREFIX], false),
            Err(SoapError::TooLong)
        );
    }
}

#[test]
fn a_soap_action_that_contradicts_the_body_is_noticed() {
    let login = Operation {
        ns: "urn:vim25".to_owned(),
        name: "Login".to_owned(),
    };
    for (action, expected) in [
        ("", true),
        ("\"\"", true),
        ("urn:vim25", true),
        ("urn:vim25/8.0.2.0", true),
        ("\"urn:vim25/8.0\"", true),
        ("urn:vim25/", true),
        ("urn:vim25/Login", true),
        ("\"urn:vim25#Login\"", true),
        ("urn:vim25/Destroy_Task", false),
        ("urn:vim25/Logout", false),
        ("Login", true),
        ("http://tempuri.org/IService/Login", true),
        ("urn:vim25x", false),
        ("urn:vim258.0", false),
        ("urn:vim25/8.0/Login/", false),
        ("urn:pbm/8.0", false),
        ("urn:vim25/8.0/Destroy_Task", false),
        ("Destroy_Task", false),
    ] {
        assert_eq!(login.agrees_with(action), expected, "{action}");
    }
}

proptest! {
    #[test]
    fn no_body_panics_and_cutting_it_never_changes_the_operation(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES.as_slice()), 0..14),
        cut in 0..400_usize,
    ) {
        let text = pieces.concat();
        let full = operation(text.as_bytes(), true);
        prop_assert_ne!(&full, &Ok(SoapOutcome::NeedMore));
        let cut = &text.as_bytes()[..cut.min(text.len())];
        let early = operation(cut, false);
        if full.is_ok() {
            prop_assert_eq!(early, Ok(SoapOutcome::NeedMore));
        } else if let Ok(outcome) = early {
            prop_assert_eq!(outcome, SoapOutcome::NeedMore);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), complete: bool) {
        let _ = operation(&bytes, complete);
    }
}

const PIECES: [&str; 20] = [
    "<?xml version='1.0'?>",
    "<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'>",
    "<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'>",
    "<Header>",
    "</Header>",
    "<Body>",
    "<Body>",
    "<Login xmlns='urn:vim25'>",
    "<Login xmlns='urn:vim25'/>",
    "</Login>",
    "</Body>",
    "</Body>",
    "</Envelope>",
    "</Envelope>",
    " ",
    "x",
    "&lt;",
    "<![CDATA[>]]>",
    "<a b='>'/>",
    "\u{e4}",
];
