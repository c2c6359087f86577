//! The switches of faults and of the load, as a console shows them.

use gusset::console::{Setting, Switch, Switches};

use super::{Chaos, Fault};
use crate::load::Rate;

impl Switches for Chaos {
    fn read(&self) -> Vec<Switch> {
        let shown = |fault: Fault| {
            let switch = Switch::toggle(fault.name(), fault.meaning(), self.is_on(fault));
            match self.is_offered(fault) {
                true => switch,
                false => switch.locked("There is nothing here for it to break"),
            }
        };
        Fault::all().map(shown).collect()
    }

    fn turn(&self, name: &str, to: Setting) -> Result<(), String> {
        let fault: Fault = name.parse()?;
        self.set(fault, to == Setting::Toggle(true)).map(drop).map_err(|error| error.to_string())
    }
}

impl Switches for Rate {
    fn read(&self) -> Vec<Switch> {
        let (now, range) = (self.get().into(), 0..=Self::MOST.into());
        vec![Switch::number(
            "load",
            "requests of customers a second, sent when they are due",
            now,
            range,
        )]
    }

    fn turn(&self, _: &str, to: Setting) -> Result<(), String> {
        match to {
            Setting::Number(rate) => self.set(u32::try_from(rate).unwrap_or(Self::MOST)),
            Setting::Toggle(_) => return Err("the load is a number".to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_turned_as_a_number_and_as_nothing_else() {
        let rate = Rate::per_second(20);
        let [shown] = <[Switch; 1]>::try_from(Switches::read(&rate)).unwrap();
        assert!(format!("{shown:?}").contains("20"), "{shown:?}");
        rate.turn("load", Setting::Number(300)).unwrap();
        assert_eq!(rate.get(), 300);
        assert_eq!(
            rate.turn("load", Setting::Toggle(true)),
            Err("the load is a number".to_owned())
        );
        rate.turn("load", Setting::Number(u64::MAX)).unwrap();
        assert_eq!(rate.get(), Rate::MOST);
    }
}
