//! `lvs-node` with a table of many services.

use anyhow::Result;

use crate::rows::Shape;

pub(crate) const LVS_NODE: &str = "/bin/lvs-node";

pub(crate) fn roles(_: Shape) -> Result<()> {
    Ok(())
}

pub(crate) fn watch(_: Shape) -> Result<()> {
    Ok(())
}
