//! Models from folders as people have them from Hugging Face.
//!
//! | file | what is read of it |
//! |---|---|
//! | `config.json` | the network: BERT and DistilBERT, GPT-2 and LLaMA, BART and Marian; what it asks for and is not computed here is refused by name |
//! | `generation_config.json` | the tokens that answers begin and end with, and those that they never have, of an encoder–decoder |
//! | `model.safetensors` | the weights |
//! | `tokenizer.json` | how texts become tokens |
//! | `1_Pooling/config.json` | how the tokens' vectors become one, of a sentence encoder |
//! | `sentence_bert_config.json` | how many tokens are read |

mod causal;
mod config;
mod decoding;
mod encoder_decoder;
mod files;
mod sentence;

pub use causal::{CausalModel, CausalNetwork};
pub use config::{Pooling, SentenceConfig};
pub use decoding::{Beam, Continuation, Generation, Sampling};
pub use encoder_decoder::{EncoderDecoderModel, EncoderDecoderNetwork};
pub use files::Files;
pub use sentence::{Encoded, SentenceEncoder, SentenceNetwork, normalize};
