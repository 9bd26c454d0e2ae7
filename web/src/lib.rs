//! regard for programs in a browser: a device, attention and recurrences over typed arrays, names written in another script, the
//! case table and benchmarks. `package/regard.js` is the door for JavaScript: what is an object there comes here as JSON.

mod attention;
mod engine;
mod measure;
mod names;
mod rnn;
mod sentence;
mod validate;

use regard::Error;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

/// Panics become messages of the console.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// An error as JavaScript throws it.
fn thrown(error: Error) -> JsError {
    JsError::new(&error.to_string())
}

/// An object that came as JSON.
fn parsed<T: DeserializeOwned>(json: &str) -> Result<T, JsError> {
    serde_json::from_str(json).map_err(|error| JsError::new(&format!("options: {error}")))
}

/// Axes of length 1 may be left out.
fn one() -> usize {
    1
}

/// Lets the page or worker do what waits, for a moment.
async fn breathe() {
    let promise = js_sys::Promise::new(&mut |done, _| {
        let set_timeout = js_sys::Reflect::get(&js_sys::global(), &"setTimeout".into());
        if let Ok(set_timeout) = set_timeout.and_then(|f| f.dyn_into::<js_sys::Function>()) {
            let _ = set_timeout.call2(&JsValue::UNDEFINED, &done, &0.into());
        }
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}

/// A callback `(done, all) => go on`, asked at most every 16 ms, after which others get their turn.
struct Progress {
    tell: js_sys::Function,
    last: f64,
}

impl Progress {
    fn new(tell: js_sys::Function) -> Self {
        Self { tell, last: f64::NEG_INFINITY }
    }

    async fn goes_on(&mut self, done: usize, all: usize) -> bool {
        let now = js_sys::Date::now();
        if now - self.last < 16.0 && done < all {
            return true;
        }
        self.last = now;
        let answer = self.tell.call2(&JsValue::UNDEFINED, &done.into(), &all.into());
        breathe().await;
        answer.is_ok_and(|answer| answer != JsValue::FALSE)
    }
}
