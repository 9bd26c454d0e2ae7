//! A picture as pixels, and as a PNG file.

use super::Rgb;

/// Rows of pixels, from the top.
pub(crate) struct Raster {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Red, green, blue.
    data: Vec<u8>,
}

impl Raster {
    /// White.
    pub(crate) fn new(width: u32, height: u32) -> Self {
        Self { width, height, data: vec![255; width as usize * height as usize * 3] }
    }

    /// Where the pixel at a place begins.
    fn start(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width as usize + x as usize) * 3
    }

    /// The pixel at a place; none outside the picture.
    pub(crate) fn at(&mut self, x: u32, y: u32) -> Option<&mut [u8]> {
        let start = self.start(x, y);
        if x < self.width { self.data.get_mut(start..start + 3) } else { None }
    }

    /// Gives a pixel a color; does nothing outside the picture.
    pub(crate) fn put(&mut self, x: u32, y: u32, color: Rgb) {
        if let Some(pixel) = self.at(x, y) {
            pixel.copy_from_slice(&color);
        }
    }

    /// A PNG file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
        encoder.set_filter(png::Filter::Adaptive);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.data)?;
        writer.finish()?;
        Ok(file)
    }
}

#[cfg(test)]
impl Raster {
    /// From a PNG file.
    pub(crate) fn decode(file: &[u8]) -> Self {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut data).unwrap();
        assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
        Self { width: info.width, height: info.height, data }
    }

    /// Every pixel with its place.
    pub(crate) fn pixels(&self) -> impl Iterator<Item = (u32, u32, Rgb)> {
        let place = |at: usize| ((at % self.width as usize) as u32, (at / self.width as usize) as u32);
        let (pixels, _) = self.data.as_chunks::<3>();
        pixels.iter().enumerate().map(move |(at, &color)| (place(at).0, place(at).1, color))
    }

    pub(crate) fn get(&self, x: u32, y: u32) -> Rgb {
        let start = self.start(x, y);
        [self.data[start], self.data[start + 1], self.data[start + 2]]
    }
}
