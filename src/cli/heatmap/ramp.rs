//! Colours of weights.

use super::{Scale, Shown};
use crate::drawing::{Fill, Rgb};

/// White to deep blue. CIE lightness falls by the same amount, 9.8, from each point to the next, so equal steps of
/// weight look equal, also in grey print.
const POINTS: [Rgb; 9] = [
    [249, 251, 252],
    [181, 230, 255],
    [130, 204, 251],
    [89, 176, 240],
    [62, 148, 222],
    [50, 120, 195],
    [47, 93, 160],
    [36, 68, 134],
    [30, 46, 92],
];

/// Weights that are missing or not finite: an orange the ramp does not come near, also for colour-blind eyes.
pub(super) const MARKED: Rgb = [230, 92, 0];

/// What a cell is painted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Paint {
    /// A colour of the ramp.
    Level(u8),
    /// [`MARKED`].
    NotFinite,
    /// Hatched.
    Hidden,
}

impl Paint {
    pub(super) fn of(shown: Shown, scale: Scale) -> Self {
        match shown {
            Shown::Hidden => Self::Hidden,
            shown => level(shown.share(scale)).map_or(Self::NotFinite, Self::Level),
        }
    }

    /// As it is drawn.
    pub(super) fn fill(self) -> Fill {
        match self {
            Self::Level(level) => Fill::Color(color(level)),
            Self::NotFinite => Fill::Color(MARKED),
            Self::Hidden => Fill::Hatched,
        }
    }
}

/// How many colours the ramp is cut into.
pub(super) const LEVELS: u8 = 255;

/// The level of a weight that is `share` of full scale, 0..=[`LEVELS`]; none when it is not finite.
pub(super) fn level(share: f32) -> Option<u8> {
    share.is_finite().then(|| (share.clamp(0.0, 1.0) * f32::from(LEVELS)).round() as u8)
}

/// The colour of a level.
pub(super) fn color(level: u8) -> Rgb {
    let at = f32::from(level) / f32::from(LEVELS) * (POINTS.len() - 1) as f32;
    let below = (at as usize).min(POINTS.len() - 2);
    let share = at - below as f32;
    let (a, b) = (POINTS[below], POINTS[below + 1]);
    std::array::from_fn(|i| (f32::from(a[i]) + (f32::from(b[i]) - f32::from(a[i])) * share).round() as u8)
}

/// The colour of a weight, as a share of full scale.
pub(super) fn shade(share: f32) -> Rgb {
    level(share).map_or(MARKED, color)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CIE 1976 lightness of an sRGB colour, 0..=100.
    fn lightness(color: Rgb) -> f32 {
        let linear = color.map(|c| {
            let c = f32::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        });
        let y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
        116.0 * y.cbrt() - 16.0
    }

    #[test]
    fn lightness_falls_evenly() {
        for pair in POINTS.windows(2) {
            let fall = lightness(pair[0]) - lightness(pair[1]);
            assert!((fall - 9.8).abs() < 0.6, "{pair:?} falls by {fall}");
        }
        for level in 0..LEVELS {
            assert!(lightness(color(level + 1)) <= lightness(color(level)) + 0.2, "level {level}");
        }
    }

    #[test]
    fn ends_and_strange_weights() {
        assert_eq!(shade(0.0), POINTS[0]);
        assert_eq!(shade(1.0), POINTS[8]);
        assert_eq!(shade(7.0), POINTS[8]);
        assert_eq!(shade(-1.0), POINTS[0]);
        assert_eq!(shade(f32::NAN), MARKED);
        assert_eq!(shade(f32::INFINITY), MARKED);
    }
}
