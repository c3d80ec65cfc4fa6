//! The consumer group: its coordinator, and workers that join, stop, crash or lose membership.

use super::{MAX_MEMBERS, World};
use crate::model::member::Member;

impl World {
    pub(super) fn leave(&mut self, id: u32) {
        self.members.remove(&id);
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

    /// A member's process ends; its calls stay in flight.
    pub(super) fn crash(&mut self) {
        if let Some(id) = self.some_member() {
            trace!(self, "{id} crashes");
            self.leave(id);
            self.rebalance();
        }
    }

    /// A member's group session expires, which it does not notice.
    pub(super) fn expire(&mut self) {
        if let Some(id) = self.some_member() {
            trace!(self, "{id}'s group session expires");
            self.owners.retain(|_, owner| *owner != id);
            if let Some(member) = self.members.get(&id) {
                member.expel();
            }
            self.rebalance();
        }
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
