use gusset_ratelimit::{Concurrency, ConcurrencyLimiter};

use super::Building;
use crate::{
    Mirror, Route, Split, Variant,
    config::{
        Named,
        file::{
            MirrorSection, RolloutSection, RouteSection, SplitField, SplitSection, TrafficFields,
            VariantSection,
        },
        gateway::{DescribedSplit, KeptRoute},
        nearest,
        value::Placed,
    },
};

impl<'c> Building<'c> {
    /// The split of a route, its own or one that it names.
    pub(super) fn split(
        &mut self,
        of: &'c SplitField,
        traffic: &TrafficFields,
        kept: &mut KeptRoute,
    ) -> Option<Split> {
        let sticky = traffic.sticky.as_ref();
        let (split, sticky) = match of {
            SplitField::Own(variants) => {
                let rollout = traffic.rollout.as_ref();
                let made = self.made(variants, rollout, kept.split.take())?;
                (kept.split.insert(made).1.clone(), sticky)
            }
            SplitField::Named(name) => {
                let (split, section) = self.named(name)?;
                (split, sticky.or(section.sticky.as_ref()))
            }
        };
        Some(split.going_on(sticky.map(|sticky| &sticky.0)))
    }

    /// The split of this name; without one, that is told.
    fn named(&mut self, name: &'c Placed<String>) -> Option<(Split, &'c SplitSection)> {
        let sections = &self.config.file.splits;
        let Some(Named { value: section, .. }) =
            sections.iter().find(|section| section.name == name.value)
        else {
            let known = nearest(&name.value, sections.iter().map(|section| &*section.name));
            let reason = match known {
                Some(known) => format!("there is no split {:?}; {known:?} is meant?", name.value),
                None => format!("there is no split {0:?}; add [splits.{0}]", name.value),
            };
            self.errors.push(name.place.error(reason));
            return None;
        };
        let (_, split) = self.splits.get(name.value.as_str())?.clone()?;
        Some((split, section))
    }

    /// Those that have names, also if no route has them.
    pub(super) fn splits(&mut self) {
        for Named { name, value: section, .. } in &self.config.file.splits {
            let before = self.kept.splits.get(name).cloned();
            let made = self.made(&section.variants, section.rollout.as_ref(), before);
            self.splits.insert(name, made);
        }
    }

    /// A split as the file has it, or the one before where the file says the same of it: its weights may be others by now.
    fn made(
        &mut self,
        variants: &Placed<Vec<VariantSection>>,
        rollout: Option<&RolloutSection>,
        before: Option<(DescribedSplit, Split)>,
    ) -> Option<(DescribedSplit, Split)> {
        let variant = |section: &VariantSection| {
            let upstream = self.upstream(&section.to)?;
            Some(Variant::new(section.name(), upstream, section.weight))
        };
        // All are read, so that all errors are found.
        let read: Vec<_> = variants.value.iter().map(variant).collect();
        let described = DescribedSplit {
            variants: read.into_iter().collect::<Option<_>>()?,
            rollout: rollout.cloned(),
        };
        match before {
            Some((before, split)) if before == described => Some((described, split)),
            _ => self.begun(variants, &described).map(|split| (described, split)),
        }
    }

    /// A split at its begin.
    fn begun(
        &mut self,
        variants: &Placed<Vec<VariantSection>>,
        described: &DescribedSplit,
    ) -> Option<Split> {
        let split = Split::new(described.variants.iter().cloned());
        if let Some(mistake) = split.mistake() {
            self.errors.push(variants.place.error(mistake));
            return None;
        }
        let Some(rollout) = &described.rollout else { return Some(split) };
        match split.roll_out(&rollout.variant, rollout.plan()) {
            Ok(()) => Some(split),
            Err(error) => {
                self.errors.push(rollout.place.error(error.to_string()));
                None
            }
        }
    }

    /// With its mirror, with how much may be under way, and what is already.
    pub(super) fn bounded(
        &mut self,
        mut route: Route,
        section: &RouteSection,
        kept: &mut KeptRoute,
    ) -> Option<Route> {
        let TrafficFields { mirror, hedge, in_flight, priority, .. } = &section.traffic;
        kept.mirror = match mirror {
            Some(section) => Some(self.mirror(section, kept)?),
            None => None,
        };
        if let Some((_, mirror)) = &kept.mirror {
            route = route.mirror(mirror.clone());
        }
        kept.in_flight = in_flight.map(|most| match kept.in_flight.take() {
            Some((before, limiter)) if before == most => (most, limiter),
            _ => (most, ConcurrencyLimiter::new("route", Concurrency::fixed(most))),
        });
        if let Some((_, limiter)) = &kept.in_flight {
            route = route.in_flight_of(limiter.clone());
        }
        if let Some(hedge) = hedge {
            route = route.hedge(hedge.policy());
        }
        Some(match priority {
            Some(priority) => route.priority(*priority),
            None => route,
        })
    }

    fn mirror(
        &mut self,
        section: &MirrorSection,
        kept: &KeptRoute,
    ) -> Option<(MirrorSection, Mirror)> {
        let upstream = self.upstream(&section.to)?;
        match &kept.mirror {
            // Its upstream may be another one by that name.
            Some((before, mirror)) if before == section && *mirror.upstream() == upstream => {
                return Some((section.clone(), mirror.clone()));
            }
            _ => {}
        }
        let mut mirror = Mirror::to(upstream);
        if let Some(share) = section.share {
            mirror = mirror.share(share);
        }
        if let Some(size) = section.body_limit {
            mirror = mirror.body_limit(size.in_memory());
        }
        if let Some(most) = section.at_once {
            mirror = mirror.at_once(most);
        }
        if let Some(mistake) = mirror.mistake() {
            self.errors.push(section.place.error(mistake));
            return None;
        }
        Some((section.clone(), mirror))
    }
}
