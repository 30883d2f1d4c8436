//! Inventories: what the driver sees is told, and what the service says that nobody wants is
//! deleted. Nothing is deleted unasked, nor while the agent may not act, nor if it may be what a
//! session in hand runs as.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use lessor_protocol::{Inventory, InventoryResource, MAX_RESOURCES, Verdict};
use tokio::time::sleep;

use super::Agent;
use super::backoff::Backoff;
use super::calls::Turn;
use super::driver::Driver;
use super::lease::boottime;
use super::shared::Shared;

/// The longest pause between tries.
const CAP: Duration = Duration::from_secs(60);
/// How many resources are deleted at the same time.
const DELETIONS: usize = 16;

/// Whether the service waits for an inventory.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    wanted: bool,
    /// The stamp at which the newest inventory was answered: what was asked before it is served.
    served: u64,
}

impl Shared {
    /// An inventory is due: of the agent's own accord.
    pub(super) fn want_inventory(&self) {
        self.lock().inventory.wanted = true;
        self.inventories.notify_one();
    }

    /// The service said whether it wants one, in the answer to the request numbered `asked`.
    pub(super) fn inventory_asked(&self, wanted: bool, asked: u64) {
        let mut state = self.lock();
        if wanted && asked > state.inventory.served {
            state.inventory.wanted = true;
            self.inventories.notify_one();
        }
    }

    async fn inventory_wanted(&self) {
        loop {
            let bell = self.inventories.notified();
            if std::mem::take(&mut self.lock().inventory.wanted) {
                return;
            }
            bell.await;
        }
    }

    fn inventory_served(&self) {
        let mut state = self.lock();
        state.inventory.wanted = false;
        state.inventory.served = state.stamp();
    }
}

impl<D: Driver> Agent<D> {
    /// Takes an inventory whenever one is wanted, and does what is said about it.
    pub(super) async fn keep_taking_inventory(&self) -> Turn {
        let mut backoff = Backoff::up_to(CAP);
        loop {
            self.shared.inventory_wanted().await;
            let Some((began, resources)) = self.look_around().await else {
                // The service asks again.
                sleep(backoff.pause(None)).await;
                continue;
            };
            let body = Inventory {
                incarnation: self.shared.lock().incarnation,
                taken_seconds_ago: boottime().saturating_sub(began).as_secs_f64(),
                resources,
            };
            match self.caller().send_inventory(&self.config.name, &body).await {
                Ok(answer) => {
                    self.shared.inventory_served();
                    let unwanted: HashMap<&str, Verdict> = answer
                        .verdicts
                        .iter()
                        .map(|v| (v.platform_resource_id.as_str(), v.verdict))
                        .collect();
                    let unwanted: Vec<InventoryResource> = body
                        .resources
                        .into_iter()
                        .filter(|resource| {
                            unwanted.get(resource.platform_resource_id.as_str())
                                == Some(&Verdict::Delete)
                        })
                        .collect();
                    if unwanted.is_empty() {
                        backoff.reset();
                        continue;
                    }
                    self.delete(unwanted).await;
                    // Another look tells the service that they are gone, or tries again.
                    sleep(backoff.pause(None)).await;
                    self.shared.want_inventory();
                }
                Err(error) => {
                    if let Some(turn) = self.turn(&error) {
                        return turn;
                    }
                    tracing::warn!(%error, "the inventory was not taken");
                    sleep(backoff.pause(error.retry_after())).await;
                    // Taken anew: what was seen before is old by then.
                    self.shared.want_inventory();
                }
            }
        }
    }

    /// What the driver sees, and when it began to look.
    async fn look_around(&self) -> Option<(Duration, Vec<InventoryResource>)> {
        let began = boottime();
        let seen = AssertUnwindSafe(self.driver.inventory()).catch_unwind();
        let resources = match seen.await {
            Ok(resources) => resources?,
            Err(_) => {
                tracing::error!("the driver panicked in inventory");
                return None;
            }
        };
        if resources.len() > MAX_RESOURCES {
            // A part of it would say that the rest is gone.
            tracing::error!(
                resources = resources.len(),
                "more resources than an inventory can list: none is sent"
            );
            return None;
        }
        Some((began, resources))
    }

    async fn delete(&self, unwanted: Vec<InventoryResource>) {
        stream::iter(unwanted)
            .for_each_concurrent(DELETIONS, |resource| async move {
                self.delete_one(&resource).await;
            })
            .await;
    }

    async fn delete_one(&self, resource: &InventoryResource) {
        let Ok(_permit) = self.shared.acting.acquire().await else {
            return;
        };
        let name = &resource.platform_resource_id;
        // Looked at as late as can be: work may have come meanwhile.
        if self.shared.lock().book.may_be_in_hand(resource) {
            tracing::warn!(resource = name, "not deleted: a session in hand may be it");
            return;
        }
        tracing::info!(resource = name, session = ?resource.session_id, "deleting what no session wants");
        let deleted = tokio::select! {
            biased;
            () = self.shared.fenced() => {
                tracing::warn!(resource = name, "fenced: the deletion was cut off");
                return;
            }
            deleted = AssertUnwindSafe(self.driver.delete(resource)).catch_unwind() => deleted,
        };
        match deleted {
            Ok(Ok(())) => {}
            Ok(Err(stop)) => tracing::warn!(resource = name, ?stop, "not deleted yet"),
            Err(_) => tracing::error!(resource = name, "the driver panicked in delete"),
        }
    }
}
