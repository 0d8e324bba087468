//! The routes of the control API and the HTTP status of every error.
//!
//! Owns the paths under `/v1`. Every answer is one of `views.rs`; every request goes to [`Manage`] on a thread that may
//! block.

use super::{Shared, pictures, streams};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::Manage;
use crate::views::{
    ChangeView, ChangedView, ConfigurationView, DeletedView, DeletionView, ExtensionView, NamesView,
    NewCloneView, NewVolumeView, SnapshotsView, VolumeKind, VolumeView, VolumesView,
};
use crate::{names, views};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The API over `pool`.
pub fn router(pool: Shared) -> Router {
    Router::new()
        .route("/v1/pool", get(status).patch(configure))
        .route("/v1/pool/extensions", post(extend))
        .route("/v1/pool/trims", post(streams::trim))
        .route("/v1/volumes", get(volumes).post(create_volume))
        .route("/v1/volumes/{name}", get(volume).delete(delete_volume).patch(change_volume))
        .route("/v1/snapshots", get(snapshots).post(create_snapshots))
        .route("/v1/snapshots/{name}", get(snapshot).delete(delete_snapshot).patch(change_snapshot))
        .route("/v1/clones", post(create_clone))
        .route("/v1/deletions", post(delete))
        .route("/v1/usages", post(streams::usage))
        .route("/v1/differences", post(streams::difference))
        .route("/v1/streams", post(streams::send))
        .route("/v1/arrivals", get(streams::arrivals).post(streams::receive))
        .route("/v1/arrivals/{name}", post(streams::receive_as).delete(streams::abort))
        .route("/v1/pictures", post(pictures::start))
        .route("/v1/pictures/{name}/fills", post(pictures::fill))
        .route("/v1/pictures/{name}/snapshot", post(pictures::finish))
        .route("/v1/mappings", post(pictures::mappings))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(pool)
}

pub(super) type Answer<T> = std::result::Result<(StatusCode, Json<T>), Failure>;

/// An error as an answer.
pub(super) struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (status_of(self.0.kind()), Json(self.0.view())).into_response()
    }
}

fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Usage | Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Exists | Kind::Busy => StatusCode::CONFLICT,
        Kind::InUse => StatusCode::LOCKED,
        Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Limit => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A body of JSON, whatever its content type says; what is wrong with it is told as every error is.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> std::result::Result<Self, Self::Rejection> {
        let wrong = |cause: &dyn std::fmt::Display| {
            Failure(
                Error::new(Kind::Usage, format!("the body cannot be read: {cause}"))
                    .hint("send the JSON object that docs/cli.md shows for this path"),
            )
        };
        let bytes = Bytes::from_request(request, state).await.map_err(|cause| wrong(&cause))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|cause| wrong(&cause))
    }
}

/// A name in a path; what is wrong with it is told as every error is.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Self::Rejection> {
        let Path(name) = Path::from_request_parts(parts, state).await.map_err(|cause| {
            Failure(Error::new(Kind::Invalid, cause.body_text()).hint("a name is percent-encoded UTF-8"))
        })?;
        Ok(Self(name))
    }
}

/// Asks the pool on a thread that may block.
pub(super) async fn ask<T, F>(pool: Shared, act: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&mut dyn Manage) -> Result<T> + Send + 'static,
{
    let task = move || {
        let mut pool =
            pool.lock().map_err(|_| Error::new(Kind::Failure, "an earlier request has panicked"))?;
        act(&mut *pool)
    };
    let failed = |_| Error::new(Kind::Failure, "the request has panicked");
    tokio::task::spawn_blocking(task).await.map_err(failed)?
}

pub(super) async fn answer<T, F>(pool: Shared, status: StatusCode, act: F) -> Answer<T>
where
    T: Serialize + Send + 'static,
    F: FnOnce(&mut dyn Manage) -> Result<T> + Send + 'static,
{
    Ok((status, Json(ask(pool, act).await?)))
}

/// Answers what may take long: where there are several ways to the pool others do not wait for it.
pub(super) async fn answer_apart<T, F>(pool: Shared, status: StatusCode, act: F) -> Answer<T>
where
    T: Serialize + Send + 'static,
    F: FnOnce(&mut dyn Manage) -> Result<T> + Send + 'static,
{
    let Some(mut way) = ask(pool.clone(), |pool| Ok(pool.fork())).await? else {
        return answer(pool, status, act).await;
    };
    let failed = |_| Error::new(Kind::Failure, "the request has panicked");
    let answered = tokio::task::spawn_blocking(move || act(&mut *way)).await.map_err(failed)??;
    Ok((status, Json(answered)))
}

async fn status(State(pool): State<Shared>) -> Answer<views::PoolView> {
    let act = |pool: &mut dyn Manage| Ok(views::PoolView { served: true, ..pool.status()? });
    answer(pool, StatusCode::OK, act).await
}

async fn configure(
    State(pool): State<Shared>,
    Body(change): Body<ConfigurationView>,
) -> Answer<views::PoolView> {
    let act = move |pool: &mut dyn Manage| Ok(views::PoolView { served: true, ..pool.configure(&change)? });
    answer(pool, StatusCode::OK, act).await
}

async fn extend(State(pool): State<Shared>, Body(new): Body<ExtensionView>) -> Answer<views::PoolView> {
    let act =
        move |pool: &mut dyn Manage| Ok(views::PoolView { served: true, ..pool.extend(new.size_bytes)? });
    answer(pool, StatusCode::OK, act).await
}

fn of_kind(pool: &mut dyn Manage, kind: VolumeKind) -> Result<Vec<VolumeView>> {
    Ok(pool.volumes()?.into_iter().filter(|volume| volume.kind == kind).collect())
}

async fn volumes(State(pool): State<Shared>) -> Answer<VolumesView> {
    let act = |pool: &mut dyn Manage| Ok(VolumesView { volumes: of_kind(pool, VolumeKind::Volume)? });
    answer(pool, StatusCode::OK, act).await
}

async fn snapshots(State(pool): State<Shared>) -> Answer<SnapshotsView> {
    let act = |pool: &mut dyn Manage| Ok(SnapshotsView { snapshots: of_kind(pool, VolumeKind::Snapshot)? });
    answer(pool, StatusCode::OK, act).await
}

async fn volume(State(pool): State<Shared>, Name(name): Name) -> Answer<VolumeView> {
    let act = move |pool: &mut dyn Manage| {
        names::check_volume(&name)?;
        pool.volume(&name)
    };
    answer(pool, StatusCode::OK, act).await
}

async fn snapshot(State(pool): State<Shared>, Name(name): Name) -> Answer<VolumeView> {
    let act = move |pool: &mut dyn Manage| {
        names::check_snapshot(&name)?;
        pool.volume(&name)
    };
    answer(pool, StatusCode::OK, act).await
}

async fn create_volume(State(pool): State<Shared>, Body(new): Body<NewVolumeView>) -> Answer<VolumeView> {
    let act =
        move |pool: &mut dyn Manage| pool.create_volume(&new.name, new.size_bytes, new.reservation_bytes);
    answer(pool, StatusCode::CREATED, act).await
}

async fn create_snapshots(State(pool): State<Shared>, Body(new): Body<NamesView>) -> Answer<SnapshotsView> {
    let act =
        move |pool: &mut dyn Manage| Ok(SnapshotsView { snapshots: pool.create_snapshots(&new.names)? });
    answer(pool, StatusCode::CREATED, act).await
}

async fn create_clone(State(pool): State<Shared>, Body(new): Body<NewCloneView>) -> Answer<VolumeView> {
    let act = move |pool: &mut dyn Manage| pool.create_clone(&new.snapshot, &new.name);
    answer(pool, StatusCode::CREATED, act).await
}

async fn change_volume(
    State(pool): State<Shared>,
    Name(name): Name,
    Body(change): Body<ChangeView>,
) -> Answer<ChangedView> {
    let act = move |pool: &mut dyn Manage| {
        names::check_volume(&name)?;
        pool.change(&name, &change)
    };
    answer(pool, StatusCode::OK, act).await
}

async fn change_snapshot(
    State(pool): State<Shared>,
    Name(name): Name,
    Body(change): Body<ChangeView>,
) -> Answer<ChangedView> {
    let act = move |pool: &mut dyn Manage| {
        names::check_snapshot(&name)?;
        pool.change(&name, &change)
    };
    answer(pool, StatusCode::OK, act).await
}

fn delete_one(pool: &mut dyn Manage, name: String) -> Result<DeletedView> {
    pool.delete(&DeletionView { names: vec![name], ..DeletionView::default() })
}

async fn delete(State(pool): State<Shared>, Body(old): Body<DeletionView>) -> Answer<DeletedView> {
    answer(pool, StatusCode::OK, move |pool| pool.delete(&old)).await
}

async fn delete_volume(State(pool): State<Shared>, Name(name): Name) -> Answer<DeletedView> {
    let act = |pool: &mut dyn Manage| {
        names::check_volume(&name)?;
        delete_one(pool, name)
    };
    answer(pool, StatusCode::OK, act).await
}

async fn delete_snapshot(State(pool): State<Shared>, Name(name): Name) -> Answer<DeletedView> {
    let act = |pool: &mut dyn Manage| {
        names::check_snapshot(&name)?;
        delete_one(pool, name)
    };
    answer(pool, StatusCode::OK, act).await
}

async fn no_route(uri: axum::http::Uri) -> Failure {
    let error = Error::new(Kind::NotFound, format!("there is nothing at '{}'", uri.path()));
    Failure(error.hint("docs/cli.md lists the paths; names are percent-encoded, `/` and `@` too"))
}

async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    let error = Error::new(Kind::Usage, format!("'{}' takes no {method}", uri.path()));
    let error = error.hint("docs/cli.md lists the methods of every path");
    (StatusCode::METHOD_NOT_ALLOWED, Json(error.view())).into_response()
}
