//! The consumer group: its coordinator, and workers that join, stop, crash or lose membership.

use tokio_util::sync::CancellationToken;

use super::{MAX_MEMBERS, World};
use crate::{model::member::Member, session::bridge::Bridge};

impl World {
    pub(super) fn leave(&mut self, id: u32) {
        if let Some(member) = self.members.remove(&id) {
            member.end();
        }
        self.owners.retain(|_, owner| *owner != id);
    }

    /// The group's coordinator: revokes partitions whose target is another member, and assigns
    /// unowned ones to their targets.
    pub(super) fn coordinate(&mut self) {
        for (id, member) in &mut self.members {
            let released = member.released();
            if member.in_group() {
                self.owners
                    .retain(|partition, owner| owner != id || !released.contains(partition));
            }
        }
        for (id, member) in &mut self.members {
            let owned = |partition: &i32| self.owners.get(partition) == Some(id);
            let mine = |partition: &i32| self.targets.get(partition) == Some(id);
            if !member.is_free() {
                continue;
            }
            let revoked: Vec<i32> = self
                .owners
                .keys()
                .copied()
                .filter(|p| owned(p) && !mine(p))
                .collect();
            if !revoked.is_empty() {
                trace!(self, "{id} is to release {revoked:?}");
                member.revoke(&revoked);
                continue;
            }
            let assigned: Vec<i32> = self
                .targets
                .keys()
                .copied()
                .filter(|p| mine(p) && !self.owners.contains_key(p))
                .collect();
            if !assigned.is_empty() {
                trace!(self, "{id} is assigned {assigned:?}");
                self.owners
                    .extend(assigned.iter().map(|partition| (*partition, *id)));
                member.assign(&assigned);
            }
        }
    }

    /// Starts a rebalance: picks new targets; most partitions stay with their member.
    pub(super) fn rebalance(&mut self) {
        let ids: Vec<u32> = self
            .members
            .iter()
            .filter(|(_, member)| member.in_group() && !member.is_stopping())
            .map(|(id, _)| *id)
            .collect();
        for partition in self.broker.lock().unwrap().partition_ids() {
            let stays = self
                .targets
                .get(&partition)
                .is_some_and(|id| ids.contains(id))
                && self.random.percent(60);
            if let Some(id) = self.random.pick(&ids).filter(|_| !stays) {
                self.targets.insert(partition, id);
            }
        }
        trace!(self, "the targets are {:?}", self.targets);
    }

    pub(super) fn join(&mut self) {
        if self.members.len() < MAX_MEMBERS {
            self.created += 1;
            trace!(self, "{} joins", self.created);
            let member = Member::new(self.worker(), self.time.clone());
            self.members.insert(self.created, member);
            self.rebalance();
        }
    }

    /// A worker's process ends; its calls stay in flight. The group may have its partitions for it
    /// until its session expires. A container that starts in its place bridges that time.
    pub(super) fn crash(&mut self) {
        let Some(id) = self.some_member() else {
            return;
        };
        // A member and its bridge are one process.
        let of_process = self.bridges.iter().find(|of| of.0 == id || of.1 == id);
        let of_process = of_process.map_or([id; 2], |of| [of.0, of.1]);
        self.members.retain(|id, _| !of_process.contains(id));
        self.bridges.retain(|of| of.0 != id && of.1 != id);
        let owned = self.owners.iter().filter(|(_, owner)| **owner == id);
        let left_behind: Vec<i32> = owned.map(|(partition, _)| *partition).collect();
        trace!(self, "{id} crashes");
        if left_behind.is_empty() || self.random.percent(30) {
            self.expire_crashed();
        } else {
            let bridge = Bridge::new(&CancellationToken::new());
            let (worker, time) = (self.worker(), self.time.clone());
            let bridging = Member::bridging(bridge.clone(), &left_behind, worker, time);
            let member = Member::after(bridge, self.worker(), self.time.clone());
            let (id, of) = (self.created + 1, self.created + 2);
            trace!(self, "{id} bridges {left_behind:?}, and {of} joins");
            self.members.extend([(id, bridging), (of, member)]);
            self.bridges.push((id, of));
            self.created = of;
        }
        self.rebalance();
    }

    /// The group sessions of crashed members expire.
    pub(super) fn expire_crashed(&mut self) {
        let members = &self.members;
        self.owners.retain(|_, owner| members.contains_key(owner));
    }

    /// A member's group session expires, which it does not notice.
    pub(super) fn expire(&mut self) {
        self.expire_crashed();
        if let Some(id) = self.some_member() {
            trace!(self, "{id}'s group session expires");
            self.owners.retain(|_, owner| *owner != id);
            if let Some(member) = self.members.get(&id).filter(|member| !member.is_bridge()) {
                member.expel();
            }
            self.rebalance();
        }
    }

    /// The bridges have lasted as long as they may.
    pub(super) fn stop_bridges(&mut self) {
        let members = self.members.values_mut();
        members
            .filter(|member| member.is_bridge())
            .for_each(Member::stop);
    }

    /// Members whose group session has expired are told.
    pub(super) fn notice(&mut self) -> Result<(), String> {
        let members = self.members.iter();
        let told: Vec<u32> = members
            .filter(|(_, member)| member.notice())
            .map(|(id, _)| *id)
            .collect();
        for id in told {
            trace!(self, "{id} notices that its group session has expired");
            self.step_of(id, Vec::new())?;
        }
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        if let Some(id) = self.some_member()
            && let Some(member) = self.members.get_mut(&id)
        {
            trace!(self, "{id} is stopped");
            member.stop();
            self.rebalance();
        }
    }
}
