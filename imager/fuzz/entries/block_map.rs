//! What must be true of every block map: its records are in their places, and what was built is found again.

use imager::repo::block_map::{
    Builder, FANOUT, Record, Root, Run, SPAN, Subtree, Visitor, height_for, leaf_records, node_children, walk,
};
use imager::repo::config::Hex;
use imager::repo::pack::ChunkId;

use super::bytes_of::take;

/// Subtrees that a walk goes into.
const ENTERED_MAX: usize = 2000;

/// The length of a region; then leaves and nodes, each behind its length in two bytes. The last is the root, and an id
/// leads to one by its first byte.
pub(crate) fn run(mut data: &[u8]) {
    let Some(region_len) = take::<8>(&mut data).map(u64::from_le_bytes) else { return };
    build(region_len, data);
    let mut nodes = Vec::new();
    while let Some(len) = take::<2>(&mut data).map(u16::from_le_bytes) {
        let (node, rest) = data.split_at(data.len().min(len.into()));
        nodes.push(node);
        data = rest;
    }
    let Some(last) = nodes.len().checked_sub(1) else { return };
    for node in &nodes {
        let _ = leaf_records(node, 0, region_len);
        let _ = node_children(node);
    }
    let mut map = Map { nodes: &nodes, region_len, entered: 0, end: 0, above: Vec::new() };
    let id = Hex([u8::try_from(last % 256).unwrap(); 32]);
    let _ = walk(Root { id, height: height_for(region_len) }, region_len, &mut map);
    assert!(walk(Root { id, height: height_for(region_len) + 1 }, region_len, &mut map).is_err());
}

struct Map<'a> {
    nodes: &'a [&'a [u8]],
    region_len: u64,
    entered: usize,
    end: u64,
    above: Vec<Subtree>,
}

impl Visitor for Map<'_> {
    fn fetch(&mut self, id: ChunkId) -> imager::Result<Vec<u8>> {
        Ok(self.nodes[usize::from(id.0[0]) % self.nodes.len()].to_vec())
    }

    fn enter(&mut self, subtree: Subtree) -> bool {
        let Subtree { start, len, height, .. } = subtree;
        // Of a region without a byte there is nothing to be in.
        assert!(len > 0 || self.region_len == 0, "{subtree:?}");
        assert!(start.checked_add(len).is_some_and(|end| end <= self.region_len), "{subtree:?}");
        if let Some(above) = self.above.last() {
            assert!(start >= above.start && start + len <= above.start + above.len && height + 1 == above.height);
        }
        self.entered += 1;
        let enters = self.entered <= ENTERED_MAX;
        if enters {
            self.above.push(subtree);
        }
        enters
    }

    fn leave(&mut self, subtree: Subtree) {
        assert_eq!(self.above.pop(), Some(subtree));
    }

    fn record(&mut self, record: Record) -> imager::Result<()> {
        let Record { start, len, .. } = record;
        let leaf = self.above.last().unwrap();
        assert!(leaf.height == 0 && start >= leaf.start && start + u64::from(len) <= leaf.start + leaf.len);
        assert!(start >= self.end && len > 0, "{record:?} after {}", self.end);
        self.end = start + u64::from(len);
        Ok(())
    }
}

/// Builds a map of the runs that `data` stands for, and finds them in it.
fn build(region_len: u64, mut data: &[u8]) {
    if region_len >= SPAN * FANOUT * FANOUT {
        return;
    }
    let (mut runs, mut at) = (Vec::new(), 0u64);
    while let Some([a, b, c, kind]) = take::<4>(&mut data) {
        let start = at + u64::from(u16::from_le_bytes([a, b])) * 4096;
        // A chunk does not cross the end of its span.
        let len = (u64::from(c) + 1) * 512;
        let len = len.min(SPAN - start % SPAN);
        if start + len > region_len {
            break;
        }
        let run = if kind == 0 { Run::Unreadable } else { Run::Chunk(Hex([kind.min(0xFE); 32])) };
        runs.push(Record { start, len: u32::try_from(len).unwrap(), run });
        at = start + len;
    }
    let mut built = Built::default();
    let mut builder = Builder::new(region_len);
    for run in &runs {
        builder.push(run.start, run.len.into(), run.run, &mut |bytes| built.store(bytes)).unwrap();
    }
    let root = builder.finish(&mut |bytes| built.store(bytes)).unwrap();
    assert_eq!(root.is_none(), runs.is_empty());
    if let Some(root) = root {
        walk(root, region_len, &mut built).unwrap();
    }
    assert_eq!(built.records, runs);
}

#[derive(Default)]
struct Built {
    nodes: Vec<Vec<u8>>,
    records: Vec<Record>,
}

impl Built {
    fn store(&mut self, bytes: &[u8]) -> imager::Result<ChunkId> {
        let mut id = [1; 32];
        id[..8].copy_from_slice(&(self.nodes.len() as u64).to_le_bytes());
        self.nodes.push(bytes.to_vec());
        Ok(Hex(id))
    }
}

impl Visitor for Built {
    fn fetch(&mut self, id: ChunkId) -> imager::Result<Vec<u8>> {
        let number = u64::from_le_bytes(id.0[..8].try_into().unwrap());
        Ok(self.nodes[usize::try_from(number).unwrap()].clone())
    }

    fn record(&mut self, record: Record) -> imager::Result<()> {
        self.records.push(record);
        Ok(())
    }
}
