//! A customer's colour, moved until it can be read (WCAG 2.2, level AA) and no further.

use std::fmt;

/// A colour in sRGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rgb(pub u8, pub u8, pub u8);

/// What texts need against what is behind them (1.4.3).
pub(super) const TEXT: f64 = 4.5;
/// What the form of a button needs against what is beside it (1.4.11).
pub(super) const SHAPE: f64 = 3.0;
/// From here on white letters are kept, and the colour behind them gets a little darker.
const NEARLY: f64 = 3.2;

const WHITE: Rgb = Rgb(0xff, 0xff, 0xff);
const BLACK: Rgb = Rgb(0x0b, 0x0d, 0x10);

impl Rgb {
    /// Of `#rgb` or `#rrggbb`, the `#` as one likes.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().trim_start_matches('#');
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let number = u32::from_str_radix(digits, 16).ok()?;
        let byte = |shift: u32| (number >> shift & 0xff) as u8;
        let nibble = |shift: u32| (number >> shift & 0xf) as u8 * 0x11;
        match digits.len() {
            6 => Some(Self(byte(16), byte(8), byte(0))),
            3 => Some(Self(nibble(8), nibble(4), nibble(0))),
            _ => None,
        }
    }

    fn linear(self) -> [f64; 3] {
        [self.0, self.1, self.2].map(|channel| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.040_45 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        })
    }

    /// The relative luminance of WCAG.
    fn luminance(self) -> f64 {
        let [r, g, b] = self.linear();
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// The contrast of WCAG: from 1 to 21.
    pub(super) fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance() + 0.05, other.luminance() + 0.05);
        if a > b { a / b } else { b / a }
    }
}

/// Six digits, as a stylesheet's name has them.
impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// Lightness, and what is coloured: the same lightness looks equally light in every hue (Oklab).
#[derive(Clone, Copy, Debug)]
struct Lab {
    lightness: f64,
    a: f64,
    b: f64,
}

impl From<Rgb> for Lab {
    fn from(colour: Rgb) -> Self {
        let [r, g, b] = colour.linear();
        let l = (0.412_221_470_8 * r + 0.536_332_536_3 * g + 0.051_445_992_9 * b).cbrt();
        let m = (0.211_903_498_2 * r + 0.680_699_545_1 * g + 0.107_396_956_6 * b).cbrt();
        let s = (0.088_302_461_9 * r + 0.281_718_837_6 * g + 0.629_978_700_5 * b).cbrt();
        Self {
            lightness: 0.210_454_255_3 * l + 0.793_617_785_0 * m - 0.004_072_046_8 * s,
            a: 1.977_998_495_1 * l - 2.428_592_205_0 * m + 0.450_593_709_9 * s,
            b: 0.025_904_037_1 * l + 0.782_771_766_2 * m - 0.808_675_766_0 * s,
        }
    }
}

impl Lab {
    /// `None` where no screen shows it.
    fn rgb(self) -> Option<Rgb> {
        let l = (self.lightness + 0.396_337_777_4 * self.a + 0.215_803_757_3 * self.b).powi(3);
        let m = (self.lightness - 0.105_561_345_8 * self.a - 0.063_854_172_8 * self.b).powi(3);
        let s = (self.lightness - 0.089_484_177_5 * self.a - 1.291_485_548_0 * self.b).powi(3);
        let linear = [
            4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
            -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
            -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
        ];
        if linear.iter().any(|value| !(-0.001..=1.001).contains(value)) {
            return None;
        }
        let [r, g, b] = linear.map(|value| {
            let value = value.clamp(0.0, 1.0);
            let encoded = if value <= 0.003_130_8 {
                value * 12.92
            } else {
                1.055 * value.powf(1.0 / 2.4) - 0.055
            };
            (encoded * 255.0).round() as u8
        });
        Some(Rgb(r, g, b))
    }

    /// The same hue at another lightness, as much of the colour as a screen has there.
    fn at(self, lightness: f64) -> Rgb {
        let shades = (0..=20).rev().map(|part| {
            let part = f64::from(part) / 20.0;
            Self {
                lightness,
                a: self.a * part,
                b: self.b * part,
            }
        });
        let fallback = if lightness > 0.5 { WHITE } else { BLACK };
        shades.into_iter().find_map(Self::rgb).unwrap_or(fallback)
    }
}

/// The nearest shade in one direction that is good enough, else what lies at its end.
fn shade(colour: Rgb, lighter: bool, good: impl Fn(Rgb) -> bool) -> Rgb {
    if good(colour) {
        return colour;
    }
    let lab = Lab::from(colour);
    let end = if lighter { 1.0 } else { 0.0 };
    (1..=100)
        .map(|step| lab.at(lab.lightness + (end - lab.lightness) * f64::from(step) / 100.0))
        .find(|shade| good(*shade))
        .unwrap_or(if lighter { WHITE } else { BLACK })
}

/// What is behind and beside things in one of the two schemes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    pub(super) surfaces: [Rgb; 2],
    pub(super) dark: bool,
}

/// The grounds of the stylesheet; a test compares them.
pub(super) const LIGHT: Ground = Ground {
    surfaces: [Rgb(0xf6, 0xf7, 0xf9), Rgb(0xff, 0xff, 0xff)],
    dark: false,
};
pub(super) const DARK: Ground = Ground {
    surfaces: [Rgb(0x0f, 0x12, 0x17), Rgb(0x18, 0x1c, 0x23)],
    dark: true,
};

/// An application's colour on one ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accent {
    /// Of buttons.
    pub(super) fill: Rgb,
    /// Of the letters on them.
    pub(super) on_fill: Rgb,
    /// Of the line around them, which shows where they end where their colour does not.
    pub(super) rim: Rgb,
    /// Of links, and of the ring around what has the focus.
    pub(super) text: Rgb,
}

impl Accent {
    pub(super) fn on(ground: Ground, colour: Rgb) -> Self {
        let against = |least: f64| {
            move |shade: Rgb| {
                let far = |surface: &Rgb| shade.contrast(*surface) >= least;
                ground.surfaces.iter().all(far)
            }
        };
        let (fill, on_fill) = if colour.contrast(WHITE) >= NEARLY {
            let darker = shade(colour, false, |shade| shade.contrast(WHITE) >= TEXT);
            (darker, WHITE)
        } else {
            let lighter = shade(colour, true, |shade| shade.contrast(BLACK) >= TEXT);
            (lighter, BLACK)
        };
        Self {
            fill,
            on_fill,
            rim: shade(fill, ground.dark, against(SHAPE)),
            text: shade(colour, ground.dark, against(TEXT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(colour: Rgb) {
        for ground in [LIGHT, DARK] {
            let accent = Accent::on(ground, colour);
            assert!(
                accent.fill.contrast(accent.on_fill) >= TEXT,
                "{colour:?} {accent:?}"
            );
            for surface in ground.surfaces {
                assert!(
                    accent.text.contrast(surface) >= TEXT,
                    "{colour:?} {accent:?}"
                );
                assert!(
                    accent.rim.contrast(surface) >= SHAPE,
                    "{colour:?} {accent:?}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_colour_can_be_read_in_both_schemes(r: u8, g: u8, b: u8) {
            holds(Rgb(r, g, b));
        }

        #[test]
        fn what_can_be_read_stays_as_it_is(r: u8, g: u8, b: u8) {
            let colour = Rgb(r, g, b);
            let enough = LIGHT
                .surfaces
                .iter()
                .all(|it| colour.contrast(*it) >= TEXT);
            prop_assert_eq!(Accent::on(LIGHT, colour).text == colour, enough);
        }

        #[test]
        fn colours_are_read_as_they_are_written(r: u8, g: u8, b: u8, noise: String) {
            let colour = Rgb(r, g, b);
            prop_assert_eq!(Rgb::parse(&colour.to_string()), Some(colour));
            prop_assert_eq!(Rgb::parse(&format!("#{colour}")), Some(colour));
            let _ = Rgb::parse(&noise);
        }
    }

    #[test]
    fn the_corners_of_the_cube() {
        for corner in 0..27_u32 {
            let channel = |place: u32| [0, 128, 255][(corner / 3_u32.pow(place) % 3) as usize];
            holds(Rgb(channel(0), channel(1), channel(2)));
        }
    }

    #[test]
    fn what_is_no_colour() {
        for text in ["", "#", "#12", "#12345", "red", "#12345g", "#+12345", "1é2"] {
            assert_eq!(Rgb::parse(text), None, "{text}");
        }
        assert_eq!(Rgb::parse(" #fA0 "), Some(Rgb(0xff, 0xaa, 0)));
    }

    #[test]
    fn contrast_is_that_of_wcag() {
        assert!((Rgb(0, 0, 0).contrast(WHITE) - 21.0).abs() < 0.001);
        assert!((Rgb(0x76, 0x76, 0x76).contrast(WHITE) - 4.54).abs() < 0.01);
    }
}
