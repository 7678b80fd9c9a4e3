//! Bodies of requests.

use bytes::Bytes;
use serde_json::Value;

use super::ApiError;

/// A body that may be empty: the SDKs send nothing where the specification shows `{}`. What it is said to
/// be (`content-type`) does not matter.
pub(super) fn read(body: &Bytes) -> Result<Value, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
        Ok(_) => Err(ApiError::invalid("the body must be a JSON object")),
        Err(error) => Err(ApiError::invalid(format!(
            "the body is not JSON: line {}, column {}",
            error.line(),
            error.column()
        ))),
    }
}
