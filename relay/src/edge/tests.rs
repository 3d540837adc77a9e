//! The edge from end to end, in this process: real HTTP on one side, a real session on the other.

mod calls;
mod hostile;
mod rig;
