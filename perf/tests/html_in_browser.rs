//! The page in a real browser: light and dark, wide and on a phone, with the sample data beside this file (invented,
//! never measured) that has every kind of row: curves, failed and absent contenders, wins and defeats.
//!
//! `PERF_SCREENSHOTS=DIR cargo test -p perf --test html_in_browser` keeps the pictures there, to be looked at. Without a
//! browser these tests fail and say how to install one.

mod browser;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use browser::{Browser, View};
use perf::html;
use perf::recorded::Recorded;
use serde_json::{Value, json};

const LIGHT: View = View { name: "light", width: 1280, height: 900, is_mobile: false, is_dark: false };
const DARK: View = View { name: "dark", is_dark: true, ..LIGHT };
const PHONE: View = View { name: "phone", width: 360, height: 740, is_mobile: true, is_dark: false };
const PHONE_DARK: View = View { name: "phone-dark", is_dark: true, ..PHONE };

/// Distinct colours a drawn page has at least; text alone has dozens of shades, a blank page has one.
const COLOURS_MIN: usize = 50;

/// Lists what reaches beyond the window and is not inside of something that scrolls by itself.
const OVERFLOWING: &str = r"
    (() => {
        const found = [];
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth > width) found.push(`page ${document.documentElement.scrollWidth}`);
        for (const element of document.body.querySelectorAll('*')) {
            if (element.closest('.scroll') && !element.matches('.scroll')) continue;
            const box = element.getBoundingClientRect();
            if (box.width === 0 || box.height === 0) continue;
            if (box.right > width + 0.5 || box.left < -0.5)
                found.push(`${element.tagName} ${element.textContent.slice(0, 40)} ${box.left}..${box.right}`);
        }
        return found;
    })()";

/// Lists pairs of words that lie over each other in a drawing.
const COLLIDING: &str = r"
    (() => {
        const found = [];
        for (const drawing of document.querySelectorAll('figure > svg')) {
            const words = [...drawing.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()]);
            words.forEach(([one, a], index) => words.slice(index + 1).forEach(([other, b]) => {
                const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (wide > 1 && high > 3) found.push(`${one.textContent} / ${other.textContent}`);
            }));
        }
        return found;
    })()";

fn sample() -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/invented.json");
    Recorded::read(&path).unwrap()
}

/// A page in a folder of its own.
struct Page {
    _directory: tempfile::TempDir,
    file: PathBuf,
}

fn page(text: &str) -> Page {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.html");
    std::fs::write(&file, text).unwrap();
    Page { _directory: directory, file }
}

/// The colours of a picture, and the one of its corner: the page's ground.
fn colours(picture: &[u8]) -> (BTreeSet<[u8; 3]>, [u8; 3]) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(frame.bit_depth, png::BitDepth::Eight);
    let samples = frame.color_type.samples();
    let colours = pixels[..frame.buffer_size()].chunks_exact(samples).map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    let ground = colours.clone().next().unwrap();
    (colours.collect(), ground)
}

/// Keeps a picture for people where `PERF_SCREENSHOTS` says.
fn keep(name: &str, picture: &[u8]) {
    if let Some(directory) = std::env::var_os("PERF_SCREENSHOTS") {
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), picture).unwrap();
    }
}

/// Opens a page, checks all that holds for every page of ours, and returns its picture.
fn checked(browser: &mut Browser, page: &Page, name: &str, view: View) -> Vec<u8> {
    browser.open(&page.file, view).unwrap();
    let picture = browser.screenshot().unwrap();
    keep(&format!("{name}-{}", view.name), &picture);
    for step in ["folded", "unfolded"] {
        let overflowing = browser.evaluate(OVERFLOWING).unwrap();
        assert_eq!(overflowing, json!([]), "{name} {}, {step}: beyond the window", view.name);
        browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)").unwrap();
    }
    let colliding = browser.evaluate(COLLIDING).unwrap();
    assert_eq!(colliding, json!([]), "{name} {}: words over each other", view.name);
    let complaints = browser.complaints().unwrap();
    assert!(complaints.is_empty(), "{name} {}: {complaints:#?}", view.name);
    let requests: Vec<&String> = browser.requests().iter().filter(|url| !url.starts_with("data:")).collect();
    assert_eq!(requests.len(), 1, "{name} {}: it asked for more than itself: {requests:?}", view.name);
    picture
}

#[test]
fn the_sample_is_drawn_in_every_view() {
    let page = page(&html::render(&sample()));
    let mut browser = Browser::start().unwrap();
    let mut grounds = Vec::new();
    for view in [LIGHT, DARK, PHONE, PHONE_DARK] {
        let picture = checked(&mut browser, &page, "sample", view);
        let (colours, ground) = colours(&picture);
        assert!(colours.len() >= COLOURS_MIN, "{}: {} colours, is it blank?", view.name, colours.len());
        let brightness: u32 = ground.iter().copied().map(u32::from).sum();
        assert_eq!(brightness < 3 * 128, view.is_dark, "{}: its ground is {ground:?}", view.name);
        grounds.push(ground);
        let charts = browser.evaluate("document.querySelectorAll('figure > svg[role=img]').length").unwrap();
        assert!(charts.as_u64() >= Some(15), "{}: {charts} charts", view.name);
    }
    assert_ne!(grounds[0], grounds[1]);
}

#[test]
fn every_chart_has_its_words_and_its_figures() {
    let page = page(&html::render(&sample()));
    let mut browser = Browser::start().unwrap();
    browser.open(&page.file, LIGHT).unwrap();
    let bare = browser
        .evaluate(
            "[...document.querySelectorAll('figure > svg')].filter(drawing => {
                const words = drawing.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id));
                return words.some(word => !word || !word.textContent) || !drawing.parentElement.querySelector('table');
            }).length",
        )
        .unwrap();
    assert_eq!(bare, 0);
    let ids = browser
        .evaluate("(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length - new Set(ids).size })()")
        .unwrap();
    assert_eq!(ids, 0, "an id stands twice");
}

#[test]
fn hostile_names_stay_text_in_the_browser_too() {
    let hostile = r#"</style></svg><script>console.error("ran")</script><img src=x onerror='console.error(1)'>"#;
    let long = "a-name-without-any-place-to-break-it-".repeat(20);
    let report = json!({
        "machine": {"cpu": hostile, "command": long, "kernel": long},
        "rows": [
            {
                "name": "transport.mtu1500.goodput", "unit": "GB/s", "better": "higher", "ours": 1.0,
                "peers": {hostile: 2.0, &long: 0.5}, "failures": {"x": hostile}, "failed": "x", "absent": {hostile: long},
                "series": {"ours": [[0, 1], [1, 1]], hostile: [[0, 1], [1, 1]], &long: [[0, 1], [1, 1]]},
                "points": {"ours": [[1, 1], [2, 1]], &long: [[1, 1], [2, 2]]}, "x_unit": hostile,
            },
            {"name": long, "unit": long, "ours": 1.0, "peers": {"quinn": 123_456_789.0}},
        ],
    });
    let page = page(&html::render(&Recorded::from_json(report).unwrap()));
    let mut browser = Browser::start().unwrap();
    for view in [LIGHT, PHONE] {
        checked(&mut browser, &page, "hostile", view);
        let foreign = browser.evaluate("document.querySelectorAll('script, img').length").unwrap();
        assert_eq!(foreign, 0);
    }
}

#[test]
fn an_empty_report_and_a_sparse_one_are_pages_too() {
    let sparse = json!({"rows": [{"name": "n", "unit": "us"}, {"name": "m.x", "unit": "IOPS", "ours": 0.0}]});
    let mut browser = Browser::start().unwrap();
    for report in [json!({"rows": []}), sparse] {
        let page = page(&html::render(&Recorded::from_json(report).unwrap()));
        checked(&mut browser, &page, "sparse", PHONE);
    }
}

/// The checks above are worth nothing if they pass a page that is wrong: each kind of wrong is seen.
#[test]
fn a_page_that_is_wrong_is_caught() {
    let mut browser = Browser::start().unwrap();
    let complaints: [(&str, &str); 6] = [
        ("<script>console.error('boom')</script>", "console error"),
        ("<script>console.warn('hm')</script>", "console warning"),
        ("<script>throw new Error('boom')</script>", "uncaught"),
        ("<script>Promise.reject(new Error('boom'))</script>", "uncaught"),
        ("<script>onload = () => setTimeout(() => console.error('late'))</script>", "console error"),
        ("<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>1</script>", "log error"),
    ];
    for (body, expected) in complaints {
        let page = page(&format!("<!doctype html><title>wrong</title>{body}"));
        browser.open(&page.file, LIGHT).unwrap();
        let found = browser.complaints().unwrap();
        assert!(found.iter().any(|complaint| complaint.starts_with(expected)), "{body}: {found:?}");
    }

    let mut evaluated = |body: &str, script: &str| -> Value {
        let page = page(&format!("<!doctype html><title>wrong</title>{body}"));
        browser.open(&page.file, PHONE).unwrap();
        browser.evaluate(script).unwrap()
    };
    let viewport = "<meta name=viewport content='width=device-width, initial-scale=1, minimum-scale=1'>";
    let wide = evaluated(&format!("{viewport}<p style='width: 500px'>wide</p>"), OVERFLOWING);
    assert!(wide.to_string().contains("wide"), "{wide}");
    let two = "<figure><svg><text y=20>one</text><text y=22>two</text></svg></figure>";
    assert_eq!(evaluated(two, COLLIDING), json!(["one / two"]));

    let picture_of = |browser: &mut Browser, body: &str| {
        let page = page(&format!("<!doctype html><title>wrong</title>{body}"));
        browser.open(&page.file, LIGHT).unwrap();
        browser.screenshot().unwrap()
    };
    assert_eq!(colours(&picture_of(&mut browser, "")).0.len(), 1, "a blank page has one colour");

    let page = page("<!doctype html><link rel=stylesheet href=other.css>");
    browser.open(&page.file, LIGHT).unwrap();
    assert_eq!(browser.requests().len(), 2, "a page that loads something is seen to");
}
