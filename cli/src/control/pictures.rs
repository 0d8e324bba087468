//! The routes of the control API for pictures of snapshots.
//!
//! Owns their answers. Filling copies blocks, so it has a way to the pool of its own.

use super::Shared;
use super::routes::{Answer, Body, Name, answer, answer_apart};
use crate::views::{
    ArrivalView, AskMappingsView, FillView, FilledView, FinishPictureView, MappingsView, NewPictureView,
    VolumeView,
};
use axum::extract::State;
use axum::http::StatusCode;

pub(super) async fn start(
    State(pool): State<Shared>,
    Body(new): Body<NewPictureView>,
) -> Answer<ArrivalView> {
    answer(pool, StatusCode::CREATED, move |pool| pool.start_picture(&new)).await
}

pub(super) async fn fill(
    State(pool): State<Shared>,
    Name(uuid): Name,
    Body(part): Body<FillView>,
) -> Answer<FilledView> {
    answer_apart(pool, StatusCode::OK, move |pool| pool.fill_picture(&uuid, &part)).await
}

pub(super) async fn finish(
    State(pool): State<Shared>,
    Name(uuid): Name,
    Body(what): Body<FinishPictureView>,
) -> Answer<VolumeView> {
    answer_apart(pool, StatusCode::CREATED, move |pool| pool.finish_picture(&uuid, &what)).await
}

pub(super) async fn mappings(
    State(pool): State<Shared>,
    Body(what): Body<AskMappingsView>,
) -> Answer<MappingsView> {
    answer(pool, StatusCode::OK, move |pool| pool.mappings(&what)).await
}
