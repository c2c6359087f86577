use std::{ops::RangeInclusive, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::Sources;

/// Things that operators turn on and off, or up and down: the faults of a drill, flags, the rate of a load.
pub trait Switches: Send + Sync + 'static {
    /// All of them, in the order in which they are shown; those after the thousandth are not. Asked once a second while somebody looks.
    fn read(&self) -> Vec<Switch>;

    /// Turns the one of this name, to what it takes by [`read`](Self::read). It is called while an operator waits, and must not block: what takes long goes on in a task of its
    /// own.
    ///
    /// # Errors
    ///
    /// Why it cannot be turned, which the operator is shown.
    fn turn(&self, name: &str, to: Setting) -> Result<(), String>;
}

/// How a switch stands, or is to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// On, or off.
    Toggle(bool),
    /// So much.
    Number(u64),
}

/// One that can be turned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Switch {
    /// By which it is turned, one of its kind among those that are read together.
    pub name: Arc<str>,
    /// What it does, in a few words.
    pub meaning: Arc<str>,
    /// How it stands.
    pub setting: Setting,
    /// The least and the most that a number may be.
    pub range: RangeInclusive<u64>,
    /// Why it cannot be turned at present.
    pub locked: Option<Arc<str>>,
}

impl Switch {
    /// One that is on or off.
    #[must_use]
    pub fn toggle(name: impl Into<Arc<str>>, meaning: impl Into<Arc<str>>, on: bool) -> Self {
        let (setting, range) = (Setting::Toggle(on), 0..=0);
        Self { name: name.into(), meaning: meaning.into(), setting, range, locked: None }
    }

    /// A number within `range`.
    #[must_use]
    pub fn number(
        name: impl Into<Arc<str>>,
        meaning: impl Into<Arc<str>>,
        now: u64,
        range: RangeInclusive<u64>,
    ) -> Self {
        let setting = Setting::Number(now);
        Self { name: name.into(), meaning: meaning.into(), setting, range, locked: None }
    }

    /// The same, which cannot be turned at present for this reason.
    #[must_use]
    pub fn locked(mut self, why: impl Into<Arc<str>>) -> Self {
        self.locked = Some(why.into());
        self
    }

    fn takes(&self, to: Setting) -> Result<(), String> {
        if let Some(why) = &self.locked {
            return Err(why.to_string());
        }
        match (self.setting, to) {
            (Setting::Toggle(_), Setting::Toggle(_)) => Ok(()),
            (Setting::Number(_), Setting::Number(to)) if self.range.contains(&to) => Ok(()),
            (Setting::Toggle(_), Setting::Number(_)) => Err("it takes true or false".to_owned()),
            (Setting::Number(_), _) => {
                let (least, most) = (self.range.start(), self.range.end());
                Err(format!("it takes a whole number from {least} to {most}"))
            }
        }
    }
}

/// Most switches of a group that are shown.
const MOST: usize = 1_000;

pub(crate) fn page(sources: &Sources) -> Value {
    let all = sources.switches.iter().flat_map(|(group, switches)| {
        let read = switches.read().into_iter().take(MOST);
        read.map(move |switch| {
            let mut shown = json!({
                "group": &**group,
                "name": &*switch.name,
                "meaning": &*switch.meaning,
                "locked": switch.locked.as_deref(),
            });
            match switch.setting {
                Setting::Toggle(on) => shown["on"] = on.into(),
                Setting::Number(number) => {
                    shown["number"] = number.into();
                    shown["least"] = (*switch.range.start()).into();
                    shown["most"] = (*switch.range.end()).into();
                }
            }
            shown
        })
    });
    json!({ "switches": all.collect::<Vec<_>>() })
}

/// What an operator has turned.
#[derive(Deserialize)]
pub(crate) struct Turn {
    group: String,
    name: String,
    to: Setting,
}

pub(crate) fn act(sources: &Sources, Turn { group, name, to }: &Turn) -> Result<(), String> {
    let of_group = sources.switches.iter().filter(|(of, _)| **of == **group);
    for (_, switches) in of_group {
        if let Some(switch) = switches.read().iter().find(|switch| *switch.name == **name) {
            switch.takes(*to)?;
            return switches.turn(name, *to);
        }
    }
    Err("there is no such switch".to_owned())
}
