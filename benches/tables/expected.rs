use crate::rows::{Measured, Shape};
use anyhow::Result;
pub(crate) fn compare(_: &Measured, _: Shape, _: bool) -> Result<bool> { Ok(true) }
