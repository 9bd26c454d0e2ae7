//! Bind groups that are kept from run to run: a run that is recorded anew over the same tensors, with the same scratch
//! memory, makes none.
//!
//! A group keeps its buffers alive, so it goes when one of them does: when the last handle on a tensor is dropped, or
//! the pool gives a buffer up. Groups over an embedder's buffers are not kept, as nobody tells when those go.

use crate::hash::WordMap;

/// Most groups that are kept; where there are more, all are made anew.
const MOST: usize = 4096;

/// What a group is made of: its pipeline, by address, and the buffers with the parts that are bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) pipeline: usize,
    /// Offset and bytes of each, by binding; the parameters are the first.
    pub(super) bound: Vec<(wgpu::Buffer, u64, u64)>,
}

/// The groups that are kept.
#[derive(Debug, Default)]
pub(super) struct Groups {
    made: WordMap<Key, wgpu::BindGroup>,
    /// How many groups bind each buffer.
    users: WordMap<wgpu::Buffer, usize>,
}

impl Groups {
    pub(super) fn get(&self, key: &Key) -> Option<wgpu::BindGroup> {
        self.made.get(key).cloned()
    }

    pub(super) fn keep(&mut self, key: Key, group: wgpu::BindGroup) {
        if self.made.len() >= MOST {
            self.clear();
        }
        for (buffer, ..) in &key.bound {
            *self.users.entry(buffer.clone()).or_default() += 1;
        }
        self.made.insert(key, group);
    }

    /// Drops every group that binds a buffer.
    pub(super) fn forget(&mut self, buffer: &wgpu::Buffer) {
        if self.users.remove(buffer).is_none() {
            return;
        }
        let users = &mut self.users;
        self.made.retain(|key, _| {
            let stays = key.bound.iter().all(|(bound, ..)| bound != buffer);
            if !stays {
                for (bound, ..) in &key.bound {
                    if let Some(count) = users.get_mut(bound) {
                        *count -= 1;
                        if *count == 0 {
                            users.remove(bound);
                        }
                    }
                }
            }
            stays
        });
    }

    pub(super) fn clear(&mut self) {
        self.made.clear();
        self.users.clear();
    }
}
