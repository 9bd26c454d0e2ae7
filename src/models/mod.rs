//! Models from folders as people have them from Hugging Face.
//!
//! | file | what is read of it |
//! |---|---|
//! | `config.json` | the network: BERT and DistilBERT, GPT-2 and LLaMA; what it asks for and is not computed here is refused by name |
//! | `model.safetensors` | the weights |
//! | `tokenizer.json` | how texts become tokens |
//! | `1_Pooling/config.json` | how the tokens' vectors become one, of a sentence encoder |
//! | `sentence_bert_config.json` | how many tokens are read |

mod causal;
mod config;
mod decoding;
mod sentence;

pub use causal::{CausalModel, CausalNetwork};
pub use config::{Pooling, SentenceConfig};
pub use decoding::{Beam, Continuation, Generation, Sampling};
pub use sentence::{Encoded, SentenceEncoder, SentenceNetwork, normalize};
