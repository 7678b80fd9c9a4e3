//! The customers' page as browsers, readers and strangers meet it.

#[path = "../../examples/gallery/files.rs"]
mod files;
mod judged;
mod sizes;
#[path = "../../examples/gallery/states.rs"]
mod states;
mod strangers;
