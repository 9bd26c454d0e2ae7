//! Rows of keys and values, wherever they lie: in one piece, behind a past, or in pages.

use crate::backend::cpu::elements::Elements;
use crate::backend::cpu::simd::Simd;

/// [B, heads, N, width], or pages of it.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) heads: usize,
    pub(super) width: usize,
    /// The past and how many rows of each head it has.
    pub(super) past: Option<(Elements<'a>, usize)>,
    pub(super) new: Elements<'a>,
    /// Rows of each head in one piece: all new ones, or those of a page.
    pub(super) piece: usize,
    /// Which pages a batch row has, [B, pages], how many that is, and how many pages there are.
    pub(super) table: Option<(&'a [u32], usize, usize)>,
}

impl<'a> Rows<'a> {
    /// The elements that row `j` of a head lies in, the first one of it, and how many rows follow on each other from there.
    fn find(&self, b: usize, head: usize, j: usize) -> (Elements<'a>, usize, usize) {
        let of = |b: usize, rows: usize, j: usize| (((b * self.heads + head) * rows + j) * self.width, rows - j);
        match (self.past, self.table) {
            (Some((past, rows)), _) if j < rows => {
                let (first, run) = of(b, rows, j);
                (past, first, run)
            }
            (_, Some((table, pages, count))) => {
                let page = (table[b * pages + j / self.piece] as usize).min(count - 1);
                let (first, run) = of(page, self.piece, j % self.piece);
                (self.new, first, run)
            }
            _ => {
                let (first, run) = of(b, self.piece, j - self.past.map_or(0, |(_, rows)| rows));
                (self.new, first, run)
            }
        }
    }

    /// `count` rows from row `j` of a head on as f32, in place where they lie so, else in `room`.
    #[inline(always)]
    pub(super) fn read<'r, S: Simd>(
        &self,
        s: S,
        (b, head): (usize, usize),
        j: usize,
        count: usize,
        room: &'r mut [f32],
    ) -> &'r [f32]
    where
        'a: 'r,
    {
        let wanted = count * self.width;
        if let (Elements::F32(from), first, run) = self.find(b, head, j)
            && run >= count
        {
            return &from[first..first + wanted];
        }
        let mut done = 0;
        while done < count {
            let (elements, first, run) = self.find(b, head, j + done);
            let rows = run.min(count - done);
            elements.read(s, first, &mut room[done * self.width..(done + rows) * self.width]);
            done += rows;
        }
        &room[..wanted]
    }
}
