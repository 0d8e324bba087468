//! Decodes any structure for people.

