//! `lessor dev`: a whole fleet on one machine.
